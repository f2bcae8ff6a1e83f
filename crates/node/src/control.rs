//! What is said inside a session beside frames.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weft_wire::PeerId;

use crate::bench::BenchMessage;

/// A control message: what follows the inner header.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control<'a> {
    /// A message of the mesh.
    Mesh(#[serde(borrow)] &'a [u8]),
    /// Asks for a [`Pong`](Self::Pong), and says where the sender sees the receiver.
    Ping {
        /// Comes back.
        nonce: u32,
        /// The source of the receiver's datagrams; `None` through a relay.
        seen_at: Option<SocketAddr>,
    },
    /// Answers a [`Ping`](Self::Ping); with nonce 0 it only shows that the session works.
    Pong {
        /// As asked.
        nonce: u32,
    },
    /// The sender will not have the receiver.
    Refused(Refusal),
    /// The cluster's secret, for one who came with a join token.
    Welcome {
        /// The secret as text.
        secret: &'a str,
    },
    /// Asks for a [`ProbeAck`](Self::ProbeAck). Zeros follow up to the length that is tried.
    Probe {
        /// Comes back.
        nonce: u32,
    },
    /// A [`Probe`](Self::Probe) arrived.
    ProbeAck {
        /// As asked.
        nonce: u32,
    },
    /// The receiver hands on between the sender and a third peer, and is to keep its sessions with both.
    Relay {
        /// The third.
        with: PeerId,
    },
    /// About a measurement of throughput.
    Bench(BenchMessage),
}

impl Control<'_> {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Encoding plain data into a growing buffer has no failure.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// A probe in a datagram that is as long as one with a frame of `frame_len` bytes.
    pub(crate) fn probe(nonce: u32, frame_len: usize) -> Vec<u8> {
        let mut bytes = Control::Probe { nonce }.to_bytes();
        bytes.resize(frame_len.max(bytes.len()), 0);
        bytes
    }
}

/// Why a peer with the right secret is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It is not on the allowlist.
    NotAllowed,
    /// Its name belongs to another key.
    NameTaken {
        /// Whose it is.
        keeper: PeerId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_of_the_mesh_are_borrowed_and_come_back() {
        let bytes = Control::Mesh(&[1, 2, 3]).to_bytes();
        assert_eq!(bytes.len(), 5, "two bytes around it");
        assert_eq!(postcard::from_bytes(&bytes), Ok(Control::Mesh(&[1, 2, 3])));
    }

    #[test]
    fn probes_have_every_length_and_are_read() {
        for (nonce, frame_len) in [(1, 1212), (u32::MAX, 1213), (300, 65_467)] {
            let bytes = Control::probe(nonce, frame_len);
            assert_eq!(bytes.len(), frame_len);
            assert_eq!(postcard::from_bytes(&bytes), Ok(Control::Probe { nonce }));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok(read) = postcard::from_bytes::<Control<'_>>(&bytes) {
                let bytes = read.to_bytes();
                prop_assert_eq!(postcard::from_bytes(&bytes), Ok(read));
            }
        }
    }
}
