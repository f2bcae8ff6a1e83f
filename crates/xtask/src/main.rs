//! Developer commands: test, demo, bench.

fn main() {}
