//! The driver as dockerd meets it: through its router, on recorded and on made-up requests.

mod fake;
mod faults;
mod golden;
mod http;
mod random;
