//! TAP with offloads, UDP with GSO and GRO, epoll: the only unsafe code.
