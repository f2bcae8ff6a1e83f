//! Captures as tcpdump writes them.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::packet::Udp;

const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const LINK_ETHERNET: u32 = 1;

/// The UDP datagrams that a capture shows on their way to `to`, in order, trains cut.
pub(crate) fn datagrams_to(file: &Path, to: IpAddr) -> Result<Vec<Udp>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut found = Vec::new();
    for frame in frames(&bytes)? {
        let Some(udp) = Udp::parse(frame).filter(|udp| IpAddr::V4(*udp.to.ip()) == to) else { continue };
        found.extend(
            udp.datagrams().into_iter().map(|payload| Udp { payload: payload.to_vec(), ..udp.clone() }),
        );
    }
    Ok(found)
}

/// The frames of a pcap file of Ethernet, whole or cut as they were captured.
fn frames(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let magic: &[u8; 4] = bytes.first_chunk().context("an empty capture")?;
    // Microseconds or nanoseconds, in either order of bytes.
    let is_big = match magic {
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => true,
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => false,
        _ => anyhow::bail!("no pcap file: it begins with {magic:02x?}"),
    };
    let word = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    ensure!(
        word(20).map(|link| link & 0xffff) == Some(LINK_ETHERNET),
        "a capture of something else than Ethernet"
    );
    let (mut found, mut at) = (Vec::new(), FILE_HEADER_LEN);
    while let Some(len) = word(at + 8) {
        let start = at + RECORD_HEADER_LEN;
        let end = start + len as usize;
        // The last record may have been cut by the capture's end.
        let Some(frame) = bytes.get(start..end) else { break };
        found.push(frame);
        at = end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_either_order_are_read_and_a_cut_one_is_left_out() {
        for big in [true, false] {
            let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
            let mut file = word(0xa1b2_c3d4).to_vec();
            file.extend_from_slice(&[0; 16]);
            file.extend(word(1));
            for len in [3, 5] {
                file.extend([word(0), word(0), word(len), word(len)].concat());
                file.extend(vec![len as u8; 3]);
            }
            assert_eq!(frames(&file).unwrap(), [&[3u8; 3][..]]);
        }
        assert!(frames(b"#!/bin/sh").is_err());
    }
}
