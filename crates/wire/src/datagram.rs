//! The outer datagram header and the sealed inner header.
//!
//! ```text
//! offset  size  outer header (authenticated, in clear)
//! 0       1     message type
//! 1       1     flags, 0
//! 2       2     reserved, 0
//! 4       4     receiver index: session (28 bits) | lane (4 bits); 0 in the first handshake message
//! 8       8     counter; in handshake messages the sender's index in the upper half, 0 in the lower
//!
//! offset  size  inner header (sealed)
//! 0       1     kind
//! 1       1     ttl: relays the datagram may still pass
//! 2       6     network id; 0 in control messages
//! ```

use crate::NetworkId;

/// Length of the outer header.
pub const HEADER_LEN: usize = 16;
/// Length of the sealed inner header.
pub const INNER_HEADER_LEN: usize = 8;
/// Length of the AEAD tag.
pub const TAG_LEN: usize = 16;
/// Lanes of a session. See [`Lane`].
pub const N_LANES: usize = 16;

/// Kinds of outer datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// First handshake message, `e`.
    Init = 1,
    /// Second handshake message, `e, ee, s, es`.
    Response = 2,
    /// Third handshake message, `s, se, psk`.
    Finish = 3,
    /// Answer under load: a cookie to repeat the handshake message with.
    Cookie = 4,
    /// A sealed frame or control message.
    Data = 5,
}

impl MessageType {
    /// The type that `byte` stands for.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Init,
            2 => Self::Response,
            3 => Self::Finish,
            4 => Self::Cookie,
            5 => Self::Data,
            _ => return None,
        })
    }
}

/// One of the 16 independent key and counter spaces of a session, so that worker threads share no counter.
///
/// Lanes 0 to 14 carry what the sender's worker of that number sends; [`Lane::CONTROL`] what its node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(u8);

impl Lane {
    /// The lane of control messages.
    pub const CONTROL: Self = Self(15);

    /// The lane of a worker thread, 0 to 14; more workers share lanes.
    #[must_use]
    pub const fn of_worker(worker: usize) -> Self {
        Self((worker % 15) as u8)
    }

    /// 0 to 15.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Every lane, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..N_LANES as u8).map(Self)
    }
}

/// By which a receiver finds the session and lane of a datagram. 28 bits of session, 4 bits of lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReceiverIndex(pub u32);

impl ReceiverIndex {
    /// Joins a session number (its low 28 bits) and a lane.
    #[must_use]
    pub const fn new(session: u32, lane: Lane) -> Self {
        Self((session << 4) | lane.0 as u32)
    }

    /// The session number, 28 bits.
    #[must_use]
    pub const fn session(self) -> u32 {
        self.0 >> 4
    }

    /// The lane.
    #[must_use]
    pub const fn lane(self) -> Lane {
        Lane((self.0 & 0xf) as u8)
    }
}

/// The outer header of every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub message: MessageType,
    /// The receiver's session and lane.
    pub receiver: ReceiverIndex,
    /// Nonce of a data datagram; see the module's diagram for handshakes.
    pub counter: u64,
}

impl Header {
    /// Encodes the header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = self.message as u8;
        out[4..8].copy_from_slice(&self.receiver.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
        out
    }

    /// Decodes the header of `datagram`.
    ///
    /// `None` when it is too short, of an unknown type, or has a bit set in flags or reserved: a later version
    /// that gives those a meaning also changes the type.
    #[must_use]
    #[inline]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let head: &[u8; HEADER_LEN] = datagram.first_chunk()?;
        let [kind, flags, r0, r1, i0, i1, i2, i3, counter @ ..] = *head;
        if flags != 0 || r0 != 0 || r1 != 0 {
            return None;
        }
        Some(Self {
            message: MessageType::from_u8(kind)?,
            receiver: ReceiverIndex(u32::from_be_bytes([i0, i1, i2, i3])),
            counter: u64::from_be_bytes(counter),
        })
    }
}

/// What a sealed payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum InnerKind {
    /// An Ethernet frame whose checksums are complete.
    Frame = 1,
    /// An Ethernet frame whose TCP or UDP checksum holds only the pseudo-header's sum (as Linux's `CHECKSUM_PARTIAL`).
    FramePartial = 2,
    /// A control message of the mesh.
    Control = 3,
    /// Nothing: shows that the sender lives.
    Keepalive = 4,
    /// A part of an Ethernet frame whose checksums are complete: a [`FragmentHeader`](crate::FragmentHeader) and bytes.
    Fragment = 5,
    /// To be handed on by the receiver: a peer id and a datagram for that peer.
    Relay = 6,
    /// Handed on by the sender: a peer id and a datagram of that peer.
    Relayed = 7,
    /// To be counted: the number of a bench's run, that of the datagram in it, and zeros.
    Bench = 8,
}

/// The sealed inner header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerHeader {
    /// What follows.
    pub kind: InnerKind,
    /// Relays the datagram may still pass.
    pub ttl: u8,
    /// The network of a frame; 0 otherwise.
    pub network: NetworkId,
}

impl InnerHeader {
    /// Encodes the header.
    #[must_use]
    #[inline]
    pub fn to_bytes(self) -> [u8; INNER_HEADER_LEN] {
        let mut out = self.network.get().to_be_bytes();
        out[0] = self.kind as u8;
        out[1] = self.ttl;
        out
    }

    /// Decodes the header of an opened payload; `None` when it is too short or of an unknown kind.
    #[must_use]
    #[inline]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let head: &[u8; INNER_HEADER_LEN] = payload.first_chunk()?;
        let kind = match head[0] {
            1 => InnerKind::Frame,
            2 => InnerKind::FramePartial,
            3 => InnerKind::Control,
            4 => InnerKind::Keepalive,
            5 => InnerKind::Fragment,
            6 => InnerKind::Relay,
            7 => InnerKind::Relayed,
            8 => InnerKind::Bench,
            _ => return None,
        };
        Some(Self { kind, ttl: head[1], network: NetworkId::from_u48(u64::from_be_bytes(*head)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lanes_of_workers_never_touch_the_control_lane() {
        assert!((0..100).all(|w| Lane::of_worker(w) != Lane::CONTROL));
        assert_eq!(Lane::all().count(), N_LANES);
    }

    proptest! {
        #[test]
        fn header_round_trips(kind in 1u8..=5, receiver: u32, counter: u64) {
            let header = Header {
                message: MessageType::from_u8(kind).unwrap(), receiver: ReceiverIndex(receiver), counter,
            };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Some(header));
        }

        #[test]
        fn parsed_header_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(header) = Header::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER_LEN]);
            }
            if let Some(inner) = InnerHeader::parse(&bytes) {
                prop_assert_eq!(&inner.to_bytes()[..], &bytes[..INNER_HEADER_LEN]);
            }
        }

        #[test]
        fn index_round_trips(session in 0u32..(1 << 28), lane in 0usize..15) {
            let index = ReceiverIndex::new(session, Lane::of_worker(lane));
            prop_assert_eq!((index.session(), index.lane().index()), (session, lane));
        }
    }
}
