//! Handshake, sessions, replay window, cookies; no IO and no clock.
