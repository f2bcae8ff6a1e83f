//! The live map in a browser that obeys its policy: what it shows, and its use without a mouse.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::Cluster;

use crate::browser::{Browser, CHROMIUM};

const URL: &str = "http://127.0.0.1:6784";

/// A made-up status, the one that the picture in docs/ was taken of: peers in all states.
const MANY: &str = include_str!("../../../../crates/daemon/testdata/status-200-peers.json");

pub(crate) fn in_a_browser(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let profile = host.log_path("browser")?.with_extension("profile");
    let profile = format!("--user-data-dir={}", profile.display());
    let dump = ["--virtual-time-budget=5000", "--dump-dom", &profile, URL];
    let page = host.run_in_network(CHROMIUM.iter().chain(&dump))?;
    for shown in ["carries traffic", "host2, connected", "● connected", "1 of 1 connected"] {
        ensure!(page.contains(shown), "the page lacks {shown}:\n{page}");
    }
    Ok(())
}

/// Whether what has the focus shows that: by an outline, or on the map by a ring.
const FOCUS_SHOWS: &str = "(() => { const on = document.activeElement, style = getComputedStyle(on), \
    halo = on.querySelector('.halo'); \
    if (halo) return getComputedStyle(halo).stroke !== 'none'; \
    return on.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2; })()";

/// The lowest contrast of a text with what is behind it, of all texts in the page.
const LOWEST_CONTRAST: &str = "(() => { \
    const channels = colour => colour.match(/[\\d.]+/g).map(Number); \
    const light = colour => { const [r, g, b] = channels(colour).map(c => c / 255) \
      .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; }; \
    const behind = node => { for (; node; node = node.parentElement) { \
      const colour = getComputedStyle(node).backgroundColor; if ((channels(colour)[3] ?? 1) > 0) return colour; } \
      return 'rgb(255, 255, 255)'; }; \
    let lowest = 99; \
    for (const node of document.body.querySelectorAll('*')) { \
      if (node instanceof SVGElement && node.tagName !== 'text') continue; \
      if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue; \
      const style = getComputedStyle(node), back = behind(node instanceof SVGElement ? at('graph') : node); \
      const [a, b] = [light(node.tagName === 'text' ? style.fill : style.color), light(back)]; \
      lowest = Math.min(lowest, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)); } \
    return lowest; })()";

/// What tells the states apart other than colour: signs in the list, shapes and dashes on the map.
const SIGNS: &str = "['connected', 'connecting', 'down'].map(state => { \
    const cell = document.querySelector('#peers td.' + state), node = document.querySelector('.node.' + state); \
    return [cell.textContent, node.querySelector('.mark').tagName, node.getAttribute('aria-label').split(', ')[1], \
      getComputedStyle(document.querySelector('.edge.' + state)).strokeDasharray]; })";

pub(crate) fn by_keyboard(cluster: &Cluster) -> Result<()> {
    let mut page = Browser::open(cluster.manager(), URL)?;
    page.wait("document.querySelectorAll('#peers tbody tr').length === 1")?;
    page.press("Tab")?;
    let first = page.focused()?.context("Tab comes to something")?;
    ensure!(first == ("link".into(), "To the list of peers".into()), "Tab comes first to {first:?}");
    page.press("Enter")?;
    page.wait("document.activeElement === at('peers-title')")?;
    let stops_of_one = stops(&mut page)?;
    pick_on_the_map(&mut page, "host2")?;

    page.answer_with(MANY.to_owned())?;
    page.wait("document.querySelectorAll('#peers tbody tr').length > 199")?;
    let stops_of_many = stops(&mut page)?;
    ensure!(
        stops_of_many.len() == stops_of_one.len(),
        "more peers are no more stops of Tab: {stops_of_one:?}, then {stops_of_many:?}"
    );
    arrows(&mut page)?;
    filter_and_sort(&mut page)?;
    focus_outlives_an_update(&mut page)?;

    let signs = page.value(SIGNS)?;
    let signs = signs.as_array().context("three states")?;
    for kind in 0..4 {
        let mut all: Vec<&Value> = signs.iter().map(|of_state| &of_state[kind]).collect();
        all.dedup();
        ensure!(all.len() == 3, "states differ by their colours alone: {signs:?}");
    }
    for theme in ["light", "dark"] {
        page.value(&format!("theme({})", theme == "dark"))?;
        let lowest = page.value(LOWEST_CONTRAST)?.as_f64().context("a number")?;
        ensure!(lowest >= 4.5, "{theme}: a text has a contrast of {lowest:.2}, 4.5 are needed");
    }
    Ok(())
}

/// Goes once through the page by Tab; every stop shows that it has the focus, and says what it is.
fn stops(page: &mut Browser) -> Result<Vec<(String, String)>> {
    page.value("document.querySelector('a').focus()")?;
    let mut stops = Vec::new();
    while let Some((role, name)) = page.focused()? {
        ensure!(!name.is_empty(), "a {role} without a name, after {stops:?}");
        ensure!(page.value(FOCUS_SHOWS)? == true, "it does not show that {role} {name:?} has the focus");
        stops.push((role, name));
        ensure!(stops.len() < 30, "Tab has no end: {stops:?}");
        page.press("Tab")?;
    }
    // A list that is longer than its box is one too, for scrolling.
    stops.retain(|(role, _)| role != "generic");
    let names: Vec<&str> = stops.iter().map(|(_, name)| name.as_str()).collect();
    for name in ["To the list of peers", "Pause", "Filter peers and containers", "Name", "State", "RTT"] {
        ensure!(names.contains(&name), "Tab does not come to {name}: {stops:?}");
    }
    for role in ["button", "searchbox", "row"] {
        ensure!(stops.iter().any(|stop| stop.0 == role), "Tab comes to no {role}: {stops:?}");
    }
    Ok(stops)
}

/// Picks a host on the map by Enter, and takes that back by Escape.
fn pick_on_the_map(page: &mut Browser, name: &str) -> Result<()> {
    page.value("document.querySelector('.node[tabindex=\"0\"]').focus()")?;
    let (role, said) = page.focused()?.context("a host has the focus")?;
    ensure!(role == "button" && said.starts_with(&format!("{name}, connected")), "{role} {said}");
    page.press("Enter")?;
    page.wait(&format!("at('detail').textContent.startsWith('{name}')"))?;
    page.wait(&format!("at('said').textContent === '{name} is picked: connected'"))?;
    page.wait("document.activeElement.getAttribute('aria-pressed') === 'true'")?;
    page.press("Escape")?;
    page.wait("at('detail').textContent === '' && at('said').textContent === ''")
}

/// On the map and in the list arrow keys go on by one; Home and End to the ends; the browser's own keys are left to it.
fn arrows(page: &mut Browser) -> Result<()> {
    for (list, all) in [("#graph .node[tabindex]", "button"), ("#peers tbody tr", "row")] {
        let nth = format!("[...document.querySelectorAll('{list}')].indexOf(document.activeElement)");
        let last = page.value(&format!("document.querySelectorAll('{list}').length - 1"))?;
        page.value(&format!("document.querySelector('{list}[tabindex=\"0\"]').focus()"))?;
        for (key, at) in [
            ("Home", Value::from(0)),
            ("ArrowRight", 1.into()),
            ("ArrowDown", 2.into()),
            ("ArrowLeft", 1.into()),
            ("ArrowUp", 0.into()),
            ("ArrowUp", 0.into()),
            ("End", last.clone()),
            ("ArrowDown", last),
        ] {
            page.press(key)?;
            let there = page.value(&nth)?;
            ensure!(there == at, "{key} among {list} goes to {there}, not to {at}");
            ensure!(page.value(FOCUS_SHOWS)? == true, "{key} among {list}: the focus is not shown");
        }
        page.press_with("ArrowUp", 2)?;
        ensure!(
            page.value(&nth)? != 0 && page.focused()?.is_some_and(|(role, _)| role == all),
            "Ctrl and an arrow"
        );
        let stops = page.value(&format!("document.querySelectorAll('{list}[tabindex=\"0\"]').length"))?;
        ensure!(stops == 1, "{stops} of {list} are stops of Tab");
    }
    Ok(())
}

fn filter_and_sort(page: &mut Browser) -> Result<()> {
    page.press("/")?;
    ensure!(page.focused()?.is_some_and(|(role, _)| role == "searchbox"), "/ does not go to the filter");
    for letter in ["d", "o", "w", "n"] {
        page.press(letter)?;
    }
    let shown = "[...document.querySelectorAll('#peers tbody tr')].map(row => row.cells[1].textContent)";
    page.wait(&format!("{shown}.length > 0 && {shown}.every(state => state === '■ down')"))?;
    page.press("Escape")?;
    page.wait("document.querySelectorAll('#peers tbody tr').length > 199 && at('filter').value === ''")?;

    page.value("document.querySelector('th[data-key=name] button').focus()")?;
    for order in ["ascending", "descending"] {
        page.press("Enter")?;
        page.wait(&format!("document.activeElement.closest('th').getAttribute('aria-sort') === '{order}'"))?;
    }
    page.value("at('pause').focus()")?;
    for state in ["true", "false"] {
        page.press("Enter")?;
        page.wait(&format!("at('pause').getAttribute('aria-pressed') === '{state}'"))?;
    }
    Ok(())
}

/// Another peer, and another order of those that were there, take the focus from neither the map nor the list.
fn focus_outlives_an_update(page: &mut Browser) -> Result<()> {
    let mut status: Value = serde_json::from_str(MANY)?;
    for (n, list) in ["#graph .node[tabindex]", "#peers tbody tr"].into_iter().enumerate() {
        page.value(&format!("document.querySelectorAll('{list}')[20].focus()"))?;
        let key = page.value("document.activeElement.dataset.key")?;
        let peers = status["peers"].as_array_mut().context("the status lists peers")?;
        let mut other = peers.iter().find(|peer| peer["state"] == "connected").context("a peer")?.clone();
        other["name"] = format!("aaa-new{n}").into();
        other["id"] = format!("{n:064x}").into();
        peers.insert(0, other);
        // Half of them get a name that stands elsewhere in the order.
        for peer in peers.iter_mut().skip(1).step_by(2) {
            peer["name"] = format!("x{n}-{}", peer["name"].as_str().unwrap_or_default()).into();
        }
        page.answer_with(status.to_string())?;
        page.wait(&format!("document.body.textContent.includes('aaa-new{n}')"))?;
        let now = page.value("document.activeElement.dataset.key ?? document.activeElement.tagName")?;
        ensure!(now == key, "an update takes the focus of {list} from {key} to {now}");
    }
    Ok(())
}
