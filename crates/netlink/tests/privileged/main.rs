//! Against the kernel, as root, each test in network namespaces of its own that vanish with it.

mod firewall;
mod guard;
mod namespace;
mod vips;
mod wiring;
