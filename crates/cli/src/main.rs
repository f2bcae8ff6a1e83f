//! weft: an encrypted overlay network for Docker.

fn main() {}
