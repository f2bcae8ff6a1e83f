//! The pure node: peers, sessions, records, and the forwarding snapshot they make.
