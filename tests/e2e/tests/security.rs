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

fn main() -> ExitCode {
    if let Err(error) = weft_lab::install_missing(&NEEDED) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    weft_e2e::run(
        "security",
        &[
            shared("nothing_readable", outsider::nothing_readable).once(),
            shared("hostile_container", container::hostile_container).once(),
            shared("spoof_check_off", container::spoof_check_off).once(),
            shared("control_socket", local::control_socket).once(),
            shared("secret_is_never_shown", local::secret_is_never_shown).once(),
            Scenario::own("replay", outsider::replay).once(),
            Scenario::own("flipped_bits", outsider::flipped_bits).once(),
            Scenario::own("flipped_cookie", outsider::flipped_cookie).once(),
            Scenario::own("silence", outsider::silence).once(),
            Scenario::own("flood", outsider::flood).once(),
            Scenario::own("isolation", member::isolation).once(),
            Scenario::own("forged_frames", member::forged_frames).once(),
            Scenario::own("forged_records", member::forged_records).once(),
            Scenario::own("pinned_name", member::pinned_name).once(),
            Scenario::own("other_suite", member::other_suite).once(),
            Scenario::own("claimed_address", member::claimed_address).once(),
            Scenario::own("rekeys", keys::rekeys).once(),
            Scenario::own("rotation", keys::rotation).once(),
            Scenario::own("revoke", revoke::revoke_under_traffic).once(),
            Scenario::own("allowlist", admission::allowlist).once(),
            Scenario::own("join_token", admission::join_token).once(),
            Scenario::own("roaming", paths::roaming).once(),
            Scenario::own("nat", paths::nat).once(),
            Scenario::own("nat_after_forty_seconds", paths::nat_after_forty_seconds).once().long(),
        ],
    )
}
