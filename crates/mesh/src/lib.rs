//! Who is on which network, exchanged between peers; no IO and no clock.
