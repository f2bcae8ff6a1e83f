//! Suite `mesh`: paths between hosts that carry less than they say, that are cut, that are IPv6 alone; multicast; fifty
//! daemons.

#[path = "mesh/daemons.rs"]
mod daemons;
#[path = "mesh/endpoints.rs"]
mod endpoints;
#[path = "mesh/fifty.rs"]
mod fifty;
#[path = "mesh/mdns.rs"]
mod mdns;
#[path = "mesh/multicast.rs"]
mod multicast;
#[path = "mesh/path_mtu.rs"]
mod path_mtu;
#[path = "mesh/relay.rs"]
mod relay;
#[path = "mesh/underlay.rs"]
mod underlay;

use std::process::ExitCode;

use weft_e2e::Scenario;

/// What the tests themselves call.
const NEEDED: [(&str, &str); 1] = [("nft", "nftables")];

fn main() -> ExitCode {
    if let Err(error) = weft_lab::install_missing(&NEEDED) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    weft_e2e::run(
        "mesh",
        &[
            Scenario::own("path_mtu", path_mtu::path_mtu).once(),
            Scenario::own("underlay_of_1280", path_mtu::underlay_of_1280).once(),
            Scenario::own("path_mtu_jumbo", path_mtu::path_mtu_jumbo).once(),
            Scenario::own("relay", relay::relay).once(),
            Scenario::own("underlay_v6_only", underlay::underlay_v6_only).once(),
            Scenario::own("underlay_mixed", underlay::underlay_mixed),
            Scenario::own("multicast", multicast::multicast).once(),
            Scenario::own("endpoints", endpoints::endpoints).once(),
            Scenario::own("fifty_daemons", fifty::fifty_daemons).long().once(),
        ],
    )
}
