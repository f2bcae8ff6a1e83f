//! Control API types and the unix-socket client.
