//! Forwarding snapshot, verdicts, segmentation maths; no IO and no clock.
