//! Suite `operations`: what an operator touches, on real hosts: status, HTTP, ping, doctor, report, live map.

#[path = "operations/browser.rs"]
mod browser;
#[path = "operations/commands.rs"]
mod commands;
#[path = "operations/doctor.rs"]
mod doctor;
#[path = "operations/examples.rs"]
mod examples;
#[path = "operations/grafana.rs"]
mod grafana;
#[path = "operations/http.rs"]
mod http;
#[path = "operations/map.rs"]
mod map;
#[path = "operations/packages.rs"]
mod packages;

use std::process::ExitCode;

use weft_e2e::{Scenario, shared};

/// What the tests themselves call.
const NEEDED: [(&str, &str); 3] = [("curl", "curl"), ("promtool", "prometheus"), ("chromium", "chromium")];

fn main() -> ExitCode {
    if let Err(error) = weft_lab::install_missing(&NEEDED) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    weft_e2e::run(
        "operations",
        &[
            shared("status_and_peers", commands::status_and_peers).once(),
            shared("ping_peer", commands::ping_peer).once(),
            shared("routes_and_rates", commands::routes_and_rates).once(),
            shared("mtu_of_a_path", commands::mtu_of_a_path).once(),
            shared("capture_frames", commands::capture_frames).once(),
            shared("bench_peer", commands::bench_peer).once(),
            shared("report_has_no_secret", commands::report_has_no_secret).once(),
            shared("http", http::answers).once(),
            shared("http_refuses", http::refuses).once(),
            shared("map_in_a_browser", map::in_a_browser).once(),
            shared("map_by_keyboard", map::by_keyboard).once(),
            shared("dashboard", grafana::dashboard_has_answers).once(),
            shared("example_stack", examples::stack).long().once(),
            shared("example_compose", examples::compose).long().once(),
            shared("doctor_finds", doctor::finds_on_a_running_host).once(),
            Scenario::own("doctor_finds_settings", doctor::finds_wrong_settings).once(),
            Scenario::own("connect_and_forget", commands::connect_and_forget).once(),
            Scenario::own("package", packages::package_from_install_to_purge).long().once(),
            Scenario::own("unit_under_systemd", packages::unit_under_systemd).long().once(),
            Scenario::own("script_names_what_is_missing", packages::script_names_what_is_missing)
                .long()
                .once(),
        ],
    )
}
