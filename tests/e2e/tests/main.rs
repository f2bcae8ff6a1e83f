//! Suite `main`: the whole path, from `docker network create` to sealed datagrams, on a two-host swarm.

#[path = "main/crash.rs"]
mod crash;
#[path = "main/exercise.rs"]
mod exercise;
#[path = "main/install.rs"]
mod install;
#[path = "main/local.rs"]
mod local;
#[path = "main/options.rs"]
mod options;
#[path = "main/run.rs"]
mod run;
#[path = "main/secret.rs"]
mod secret;
#[path = "main/settings.rs"]
mod settings;
#[path = "main/underlay.rs"]
mod underlay;

use std::process::ExitCode;

use weft_e2e::{Scenario, shared};

fn main() -> ExitCode {
    weft_e2e::run(
        "main",
        &[
            shared("exercise", exercise::exercise),
            shared("status", exercise::status_tells_peers_networks_and_counters),
            shared("addresses_and_publishing", run::addresses_and_publishing),
            shared("connect_restart_kill", run::connect_restart_kill),
            shared("internal", run::internal),
            shared("two_networks_on_one_container", run::two_networks_on_one_container),
            shared("only_ciphertext_on_the_wire", underlay::only_ciphertext_on_the_wire).once(),
            shared("mtu_at_every_hop", underlay::mtu_at_every_hop).once(),
            shared("bad_options", options::bad_options),
            shared("malformed_requests", options::malformed_requests).once(),
            shared("plugin_killed_under_ping", crash::plugin_killed_under_ping),
            shared("plugin_disabled_and_enabled", crash::plugin_disabled_and_enabled),
            shared("dockerd_killed", crash::dockerd_killed),
            Scenario::own("ipv6_underlay", underlay::ipv6_underlay).once(),
            Scenario::own("late_worker", underlay::late_worker).once(),
            Scenario::own("no_secret", secret::no_secret).once(),
            Scenario::own("wrong_secret", secret::wrong_secret).once(),
            Scenario::own("bad_settings", settings::bad_settings).once(),
            Scenario::own("install_script", install::script_installs_and_uninstalls),
            Scenario::own("outside_a_swarm", local::one_host),
            Scenario::own("same_subnet_twice", local::same_subnet_twice).once(),
        ],
    )
}
