//! Suite `swarm`: services at their virtual addresses, stacks, what swarm does to tasks under load, and what happens to
//! hosts and engines in their lives.

#[path = "swarm/churn.rs"]
mod churn;
#[path = "swarm/life.rs"]
mod life;
#[path = "swarm/load.rs"]
mod load;
#[path = "swarm/ports.rs"]
mod ports;
#[path = "swarm/service.rs"]
mod service;
#[path = "swarm/stack.rs"]
mod stack;
#[path = "swarm/udp.rs"]
mod udp;
#[path = "swarm/vip.rs"]
mod vip;

use std::process::ExitCode;

use weft_e2e::{Scenario, shared};

fn main() -> ExitCode {
    weft_e2e::run(
        "swarm",
        &[
            shared("service_vip", vip::service_vip),
            shared("service_before_and_after", vip::service_before_and_after),
            shared("service_udp", udp::service_udp).once(),
            shared("service_vip_follows_tasks", vip::service_vip_follows_tasks).once(),
            shared("host_mode_port", ports::host_mode_port).once(),
            shared("stack", stack::stack).once(),
            shared("last_known_state", vip::last_known_state).once(),
            shared("ipv6_in_a_swarm", life::ipv6::ipv6_in_a_swarm).long(),
            shared("plugin_upgraded", life::plugin::plugin_upgraded).once(),
            shared("dockerd_restarted", life::dockerd_restarted).long(),
            shared("network_removed_while_a_host_is_down", life::network_removed_while_a_host_is_down).long(),
            Scenario::own("disk_full", life::disk::disk_full).once(),
            Scenario::own("live_restore", life::local::live_restore).long().once(),
            Scenario::own("clock_jumps", life::clock::clock_jumps).long().once(),
            Scenario::own("docker_socket_withheld", life::plugin::docker_socket_withheld).long().once(),
            Scenario::own("host_rebooted", life::hosts::host_rebooted).long().once(),
            Scenario::own(
                "node_drained_left_removed_replaced",
                life::hosts::node_drained_left_removed_replaced,
            )
            .long()
            .once(),
            Scenario::own("leader_failover", life::managers::leader_failover).long().once(),
            Scenario::own("churn", churn::churn).long().once(),
        ],
    )
}
