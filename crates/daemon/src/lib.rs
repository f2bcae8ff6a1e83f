//! The daemon: wires driver, node, router, netlink and store together.
