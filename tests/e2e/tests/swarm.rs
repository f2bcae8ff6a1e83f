//! Suite `swarm`: services at their virtual addresses, stacks, and what swarm does to tasks under load.

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

use weft_e2e::shared;

fn main() -> ExitCode {
    weft_e2e::run(
        "swarm",
        &[
            shared("service_vip", vip::service_vip),
            shared("service_before_and_after", vip::service_before_and_after),
            shared("service_udp", udp::service_udp),
            shared("service_vip_follows_tasks", vip::service_vip_follows_tasks),
            shared("host_mode_port", ports::host_mode_port).once(),
            shared("stack", stack::stack).once(),
            shared("last_known_state", vip::last_known_state).once(),
        ],
    )
}
