//! Suite `speed`: the data path carries every byte as it was, whatever the kernel is asked to leave to it.

#[path = "speed/offloads.rs"]
mod offloads;
#[path = "speed/probe.rs"]
mod probe;
#[path = "speed/sandbox.rs"]
mod sandbox;
#[path = "speed/transfers.rs"]
mod transfers;

use std::process::ExitCode;

use weft_e2e::shared;

fn main() -> ExitCode {
    weft_e2e::run(
        "speed",
        &[
            // First: kernels before 6.11 stop sending trains for good once the underlay sums no checksums.
            shared("super_frames_travel_as_trains", transfers::super_frames_travel_as_trains).once(),
            shared("pings_of_every_size", transfers::pings_of_every_size).once(),
            shared("files_of_odd_sizes", transfers::files_of_odd_sizes).once(),
            shared("every_offload_combination", offloads::every_offload_combination).once(),
            shared("parallel_streams_with_hashes", transfers::parallel_streams_with_hashes).once(),
            shared("long_parallel_streams_with_hashes", transfers::long_parallel_streams_with_hashes)
                .once()
                .long(),
            shared("one_host_passes_weft_by", transfers::one_host_passes_weft_by).once(),
        ],
    )
}
