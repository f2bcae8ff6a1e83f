//! End-to-end tests on real Docker engines.
