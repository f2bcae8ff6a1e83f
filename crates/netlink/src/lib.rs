//! Bridges, veths and firewall rules, reconciled with what the kernel has.
