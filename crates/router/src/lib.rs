//! Worker threads between TAP queues and UDP sockets.
