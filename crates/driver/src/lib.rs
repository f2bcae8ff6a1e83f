//! The libnetwork remote network driver: JSON types, router, Backend.
