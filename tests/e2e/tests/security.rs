//! Suite `security`: what outsiders on the path, modified members and hostile containers try, with real packets.

#[path = "security/admission.rs"]
mod admission;
#[path = "security/adversary.rs"]
mod adversary;
#[path = "security/container.rs"]
mod container;
#[path = "security/keys.rs"]
mod keys;
#[path = "security/local.rs"]
mod local;
#[path = "security/member.rs"]
mod member;
#[path = "security/outsider.rs"]
mod outsider;
#[path = "security/paths.rs"]
mod paths;
#[path = "security/place.rs"]
mod place;
#[path = "security/plain.rs"]
mod plain;
#[path = "security/revoke.rs"]
mod revoke;

use std::process::ExitCode;

use weft_e2e::{Scenario, shared};

/// What the tests themselves call.
const NEEDED: [(&str, &str); 3] = [("ping", "iputils-ping"), ("iperf3", "iperf3"), ("nft", "nftables")];

/// A scenario in which no engine takes part: it is run with the last engine only.
macro_rules! once {
    ($body:path) => {
        |engine, weft| if plain::is_last(engine) { $body(engine, weft) } else { Ok(()) }
    };
}

fn main() -> ExitCode {
    if let Err(error) = weft_lab::install_missing(&NEEDED) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    weft_e2e::run(
        "security",
        &[
            shared("nothing_readable", outsider::nothing_readable),
            shared("hostile_container", container::hostile_container),
            shared("spoof_check_off", container::spoof_check_off),
            shared("control_socket", local::control_socket),
            shared("secret_is_never_shown", local::secret_is_never_shown),
            Scenario::own("replay", once!(outsider::replay)),
            Scenario::own("flipped_bits", once!(outsider::flipped_bits)),
            Scenario::own("silence", once!(outsider::silence)),
            Scenario::own("flood", once!(outsider::flood)),
            Scenario::own("isolation", once!(member::isolation)),
            Scenario::own("forged_frames", once!(member::forged_frames)),
            Scenario::own("forged_records", once!(member::forged_records)),
            Scenario::own("pinned_name", once!(member::pinned_name)),
            Scenario::own("other_suite", once!(member::other_suite)),
            Scenario::own("claimed_address", once!(member::claimed_address)),
            Scenario::own("rekeys", once!(keys::rekeys)),
            Scenario::own("rotation", once!(keys::rotation)),
            Scenario::own("revoke", once!(revoke::revoke_under_traffic)),
            Scenario::own("allowlist", once!(admission::allowlist)),
            Scenario::own("join_token", once!(admission::join_token)),
            Scenario::own("roaming", once!(paths::roaming)),
            Scenario::own("nat", once!(paths::nat)),
            Scenario::own("nat_after_forty_seconds", once!(paths::nat_after_forty_seconds)).long(),
        ],
    )
}
