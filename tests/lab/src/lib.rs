//! Real Docker hosts in network namespaces.
