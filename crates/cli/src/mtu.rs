//! `weft mtu`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use weft_api::{Client, MtuAnswer, MtuRequest, PathKind, SearchState, render_path};

/// Headers of IP and TCP, by family of the containers' addresses.
const HEADERS: [(&str, u16); 2] = [("IPv4", 40), ("IPv6", 60)];

/// Prints what the path to a peer carries; fails when that is less than the networks' MTU, or not known.
pub(crate) async fn mtu(
    socket: Option<PathBuf>,
    peer: String,
    probe: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let answer = Client::discover(socket).await?.mtu(&MtuRequest { peer, probe }).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", render(&answer, probe));
    }
    Ok(if is_whole(&answer) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_whole(answer: &MtuAnswer) -> bool {
    answer.state == SearchState::SearchComplete && answer.path_mtu >= answer.ceiling
}

fn state(state: SearchState) -> &'static str {
    match state {
        SearchState::Disabled => "disabled: nothing is probed",
        SearchState::Base => "base: the smallest size is being confirmed",
        SearchState::Searching => "searching: larger sizes are tried",
        SearchState::SearchComplete => "search complete",
        SearchState::Error => "error: not even the smallest size is answered",
        _ => "unknown to this command line: it is older than the daemon",
    }
}

fn sizes(list: &[u16]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn render(answer: &MtuAnswer, probed: bool) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {name:<14} {text}");
    };
    let path = match answer.path {
        None => "none".to_owned(),
        path => render_path(path, answer.via.as_deref()),
    };
    let address = answer.address.map_or_else(String::new, |address| format!(", {address}"));
    line("path", format!("{path}{address}"));
    line("state", state(answer.state).to_owned());
    if answer.state != SearchState::Disabled {
        let underlay = answer.underlay_mtu.zip(answer.overhead);
        let underlay = underlay.map_or_else(String::new, |(mtu, overhead)| {
            format!(" (underlay {mtu}, of which {overhead} are weft's)")
        });
        line("path MTU", format!("{}{underlay}", answer.path_mtu));
        let mss =
            HEADERS.map(|(family, len)| format!("{} over {family}", answer.path_mtu.saturating_sub(len)));
        line("TCP MSS", mss.join(", "));
        line("search", format!("from {} to {}", answer.base, answer.ceiling));
        if !answer.failed.is_empty() {
            line("given up", sizes(&answer.failed));
        }
        if !answer.waiting.is_empty() {
            line("unanswered yet", sizes(&answer.waiting));
        }
    }
    for (name, probes) in [("probes", answer.probes), ("now", answer.now)] {
        if name == "probes" || probed {
            let weft_api::ProbeCounts { sent, answered, lost } = probes;
            line(name, format!("{sent} sent, {answered} answered, {lost} lost"));
        }
    }
    for network in &answer.networks {
        let id = network.id.get(..12).unwrap_or(&network.id);
        line("network", format!("{id}, MTU {}", network.mtu));
    }
    let name = if answer.name.is_empty() { &answer.id } else { &answer.name };
    format!("{name}\n{out}{}", advice(answer).map_or_else(String::new, |text| format!("\n{text}\n")))
}

/// What to do, if anything.
fn advice(answer: &MtuAnswer) -> Option<String> {
    let MtuAnswer { path_mtu, ceiling, .. } = *answer;
    match answer.state {
        SearchState::Disabled if answer.path.is_none() => {
            Some("There is no session: `weft peers` and `weft doctor` say why.".to_owned())
        }
        SearchState::Disabled => Some(
            "No network is common to both hosts, so nothing is sent there but control messages, and nothing is probed."
                .to_owned(),
        ),
        SearchState::Base | SearchState::Searching => {
            Some("What carries more is being found out; `weft mtu --probe` waits for it.".to_owned())
        }
        SearchState::Error => Some(format!(
            "Not even {path_mtu} bytes are answered, which an underlay of 1280 bytes carries: raise the MTU of the \
             interfaces on the way to 1280 or more; `weft ping` tells whether anything arrives."
        )),
        _ if path_mtu >= ceiling => None,
        _ => {
            let underlay = answer.underlay_mtu.unwrap_or(path_mtu);
            let from_start = if path_mtu >= 1280 {
                format!(
                    "\n  -> if most paths are so: UNDERLAY_MTU={underlay} on all hosts (`docker plugin set weft:latest \
                     UNDERLAY_MTU={underlay}` while it is disabled),\n     or for one network: docker network create -o \
                     com.docker.network.driver.mtu={path_mtu} …"
                )
            } else {
                format!(
                    "\n  -> containers cannot have less than 1280: raise the MTU on the way to {} or more",
                    underlay + (1280 - path_mtu)
                )
            };
            let relay = if answer.path == Some(PathKind::Relay) {
                "\n  -> 56 bytes of it are the relay's: open UDP 6783 between the two hosts"
            } else {
                ""
            };
            Some(format!(
                "The path carries {path_mtu} bytes whole and containers have up to {ceiling}. Nothing is lost by that: TCP \
                 is cut to fit, other senders are\ntold, the rest goes in parts, which costs CPU and datagrams.\n  -> the \
                 best cure: an MTU of {} on every interface of the way{from_start}{relay}",
                underlay + (ceiling - path_mtu)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_api::{CommonNetwork, ProbeCounts};

    fn answer() -> MtuAnswer {
        MtuAnswer {
            id: "00".repeat(16),
            name: "host-b".to_owned(),
            path: Some(PathKind::Direct),
            via: None,
            address: Some("10.0.0.2:6783".parse().unwrap()),
            state: SearchState::SearchComplete,
            path_mtu: 1418,
            underlay_mtu: Some(1500),
            overhead: Some(82),
            base: 1198,
            ceiling: 1418,
            failed: Vec::new(),
            waiting: Vec::new(),
            probes: ProbeCounts { sent: 14, answered: 13, lost: 1 },
            now: ProbeCounts { sent: 2, answered: 2, lost: 0 },
            networks: vec![CommonNetwork { id: "u48gny859s078wz2qe8dulj4a".to_owned(), mtu: 1418 }],
            max_overlay_mtu: Some(1418),
        }
    }

    #[test]
    fn a_whole_path_needs_no_advice() {
        let text = render(&answer(), false);
        assert!(
            text.starts_with("host-b\n") && text.contains("1418 (underlay 1500, of which 82 are weft's)"),
            "{text}"
        );
        assert!(
            text.contains("1378 over IPv4, 1358 over IPv6") && text.contains("u48gny859s07, MTU 1418"),
            "{text}"
        );
        assert!(!text.contains("->") && !text.contains("2 sent"), "{text}");
        assert!(render(&answer(), true).contains("2 sent, 2 answered, 0 lost"));
        assert!(is_whole(&answer()));
    }

    #[test]
    fn a_smaller_path_is_told_with_the_options_that_fit_it() {
        let mut answer =
            MtuAnswer { path_mtu: 1318, underlay_mtu: Some(1400), failed: vec![1336], ..answer() };
        let text = render(&answer, false);
        for word in ["UNDERLAY_MTU=1400", "driver.mtu=1318", "an MTU of 1500", "given up       1336"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!is_whole(&answer) && !text.contains("relay"));
        (answer.path_mtu, answer.underlay_mtu) = (1198, Some(1280));
        let text = render(&answer, false);
        assert!(text.contains("to 1362 or more") && !text.contains("UNDERLAY_MTU"), "{text}");
        answer.path = Some(PathKind::Relay);
        assert!(render(&answer, false).contains("the relay's"));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut answer = answer();
        for (state, word) in [
            (SearchState::Disabled, "No network"),
            (SearchState::Searching, "--probe"),
            (SearchState::Error, "weft ping"),
        ] {
            answer.state = state;
            assert!(render(&answer, false).contains(word) && !is_whole(&answer), "{word}");
        }
        (answer.state, answer.path) = (SearchState::Disabled, None);
        assert!(render(&answer, false).contains("no session"));
    }
}
