//! What forwarding knows, and the verdicts that follow from it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use weft_noise::{RecvSession, SendSession};
use weft_wire::{ETHERNET_HEADER_LEN, Mac, NetworkId, PeerId};

use crate::DropReason;

/// A map whose keys are short and were admitted by the node, so that hashing need not resist anyone.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A peer's place in [`Snapshot::peers`].
pub type PeerIdx = usize;

/// Multiplies and folds, 8 bytes at a time.
#[derive(Debug, Clone, Copy, Default)]
pub struct FastHasher(u64);

impl Hasher for FastHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        // The length in front of a byte string, of which all keys of a map have the same.
        self.0 ^= value as u64;
    }
}

/// Everything that forwarding knows, at one moment. Never changed: the node publishes another one.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The networks that have an endpoint on this host.
    pub networks: FastMap<NetworkId, NetworkView>,
    /// The peers. Other fields name them by index, valid within this snapshot only.
    pub peers: Vec<PeerView>,
    /// The sessions that may receive, by this host's number (28 bits). A peer has several around a rekey.
    pub sessions: FastMap<u32, SessionView>,
    /// To whom this host may hand on: the peers that it reaches directly.
    pub served: FastMap<PeerId, PeerIdx>,
}

/// One network. The default has neither members nor addresses, checks senders, and so lets no packet through.
#[derive(Debug)]
pub struct NetworkView {
    /// MTU inside the network; informative.
    pub overlay_mtu: u16,
    /// Which peer owns an address on other hosts.
    pub fdb: FastMap<Mac, PeerIdx>,
    /// The peers on the network, each once: broadcast goes to all of them.
    pub members: Vec<PeerIdx>,
    /// The addresses of this host's endpoints.
    pub local: HashSet<Mac, BuildHasherDefault<FastHasher>>,
    /// Whose every IP address is, of this host's endpoints and the peers'. Where several claim one, the node says whose
    /// it is, and this host's stay its own. IPv6 link-local addresses need not be listed.
    pub hosts: FastMap<IpAddr, Neighbor>,
    /// Whether senders have to use the addresses of their records only. Without it a member may use any IP address, and
    /// any Ethernet address that is no one's, as VRRP does; questions for addresses that no record has are then flooded.
    pub spoof_check: bool,
    /// Whether multicast is carried. Without it only what IPv6's neighbour discovery needs is.
    pub multicast: bool,
    /// Which peers want a group's frames: multicast groups but the link-local ones, which reach every member.
    pub subscribers: FastMap<IpAddr, Vec<PeerIdx>>,
}

impl Default for NetworkView {
    fn default() -> Self {
        Self {
            overlay_mtu: 0,
            fdb: FastMap::default(),
            members: Vec::new(),
            local: HashSet::default(),
            hosts: FastMap::default(),
            spoof_check: true,
            multicast: true,
            subscribers: FastMap::default(),
        }
    }
}

/// On which host an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// On this one.
    Local,
    /// On a peer.
    Peer(PeerIdx),
}

/// The endpoint that has an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Where it is.
    pub owner: Owner,
}

/// One peer.
#[derive(Debug)]
pub struct PeerView {
    /// Who it is.
    pub id: PeerId,
    /// Where its datagrams go.
    pub remote: SocketAddr,
    /// By what they are sealed; `None` while there is no session.
    pub send: Option<Arc<SendSession>>,
    /// Outlives snapshots.
    pub counters: Arc<PeerCounters>,
    /// What the way there carries.
    pub path: PathView,
    /// Who hands its datagrams on. Its own `remote` is then no address of the underlay.
    pub relay: Option<PeerIdx>,
}

/// What fits into the datagrams of one path, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathView {
    /// The longest IP packet of a container that goes whole.
    pub overlay_mtu: u16,
    /// It is known to carry less than the containers' MTU, and containers are told. Before it is known what is longer goes
    /// in parts, since a container that was told remembers it for minutes.
    pub limited: bool,
}

impl PathView {
    /// A path of which nothing is known but that the underlay's interface takes what it is given.
    pub const UNLIMITED: Self = Self { overlay_mtu: u16::MAX, limited: false };

    /// The longest frame that goes whole.
    #[must_use]
    #[inline]
    pub const fn max_frame_len(&self) -> usize {
        self.overlay_mtu as usize + ETHERNET_HEADER_LEN
    }
}

/// One session, receiving side.
#[derive(Debug)]
pub struct SessionView {
    /// Whose it is.
    pub peer: PeerIdx,
    /// What opens its datagrams.
    pub recv: Arc<RecvSession>,
    /// Outlives snapshots.
    pub activity: Arc<SessionActivity>,
}

/// What workers tell the node about a session without a message or a clock: the node compares with what it saw at its
/// last look.
#[derive(Debug, Default)]
pub struct SessionActivity {
    /// Datagrams opened.
    pub n_received: AtomicU64,
    /// Whether the node wants to be told of the next datagram that opens. Workers clear it.
    pub tell_once: AtomicBool,
}

/// What was exchanged with a peer; frames only, as they are inside the seal.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Frames sent.
    pub n_sent: AtomicU64,
    /// Their bytes.
    pub sent_len: AtomicU64,
    /// Frames received.
    pub n_received: AtomicU64,
    /// Their bytes.
    pub received_len: AtomicU64,
}

impl PeerCounters {
    /// Counts frames sent.
    pub fn add_sent(&self, n: u64, len: u64) {
        self.n_sent.fetch_add(n, Ordering::Relaxed);
        self.sent_len.fetch_add(len, Ordering::Relaxed);
    }

    /// Counts frames received.
    pub fn add_received(&self, n: u64, len: u64) {
        self.n_received.fetch_add(n, Ordering::Relaxed);
        self.received_len.fetch_add(len, Ordering::Relaxed);
    }
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To one peer.
    Unicast(PeerIdx),
    /// To every member of the network.
    Flood,
    /// To the [subscribers](NetworkView::subscribers) of the group.
    Multicast(IpAddr),
    /// To this host's node: it says in which groups a container is. See [`Groups`](crate::Groups).
    Report,
    /// Nowhere.
    Drop(DropReason),
    /// Back, as an answer in the name of that endpoint: see [`write_answer`](crate::write_answer).
    Answer(Mac),
    /// Nowhere: it asks for an address that no one has. Counts as [`DropReason::UnknownNeighbor`].
    UnknownNeighbor(IpAddr),
    /// Nowhere, and not worth a count: whom it concerns has it already.
    Ignore,
}

/// Destination and source of an Ethernet frame.
#[inline]
fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    let (destination, rest) = frame.split_first_chunk()?;
    Some((Mac(*destination), Mac(*rest.first_chunk()?)))
}

impl NetworkView {
    /// Where a frame from this host's containers goes by its Ethernet addresses alone; what is in it is judged by
    /// [`outgoing`](Self::outgoing). Nothing is learnt from it.
    #[must_use]
    #[inline]
    pub fn forward(&self, frame: &[u8]) -> Verdict {
        match addresses(frame) {
            Some((_, source)) if self.may_send_locally(source) => self.route(frame),
            Some(_) => Verdict::Drop(DropReason::ForeignSource),
            None => Verdict::Drop(DropReason::Unsupported),
        }
    }

    #[inline]
    pub(crate) fn route(&self, frame: &[u8]) -> Verdict {
        let Some((destination, _)) = addresses(frame) else { return Verdict::Drop(DropReason::Unsupported) };
        if destination.is_group() {
            return Verdict::Flood;
        }
        match self.fdb.get(&destination) {
            Some(&peer) => Verdict::Unicast(peer),
            None => Verdict::Drop(DropReason::UnknownUnicast),
        }
    }

    #[inline]
    pub(crate) fn may_send_locally(&self, source: Mac) -> bool {
        self.local.contains(&source)
            || (!self.spoof_check && !source.is_group() && !self.fdb.contains_key(&source))
    }
}

/// The way that datagrams to a peer take.
#[derive(Debug)]
pub enum Way<'a> {
    /// To the peer itself.
    Direct,
    /// Sealed once more, to a third that hands them on.
    Relay {
        /// The third.
        relay: &'a PeerView,
        /// By what they are sealed for it.
        session: &'a SendSession,
    },
}

impl Snapshot {
    /// The way to `peer`; `None`: it needs a relay, and none is reached. Whether there is a session with the peer itself is
    /// another matter.
    #[must_use]
    #[inline]
    pub fn way(&self, peer: &PeerView) -> Option<Way<'_>> {
        if peer.remote.port() != 0 {
            return Some(Way::Direct);
        }
        let relay = self.peers.get(peer.relay?).filter(|relay| relay.remote.port() != 0)?;
        Some(Way::Relay { relay, session: relay.send.as_deref()? })
    }

    /// Whether `peer` may put a frame with the Ethernet source of `frame` onto `network`; what is in it is judged by
    /// [`incoming`](Self::incoming).
    ///
    /// # Errors
    /// Why not.
    #[inline]
    pub fn admit(&self, peer: PeerIdx, network: NetworkId, frame: &[u8]) -> Result<(), DropReason> {
        let view = self.networks.get(&network).ok_or(DropReason::UnknownNetwork)?;
        let (_, source) = addresses(frame).ok_or(DropReason::BadInner)?;
        match view.fdb.get(&source) {
            Some(&owner) if owner == peer => Ok(()),
            _ if !view.members.contains(&peer) => Err(DropReason::NotMember),
            None if !view.spoof_check && !source.is_group() && !view.local.contains(&source) => Ok(()),
            _ => Err(DropReason::SpoofedMac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const BOB: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const CAROL: Mac = Mac([2, 0, 0, 0, 0, 3]);

    fn frame(to: Mac, from: Mac) -> Vec<u8> {
        [&to.0[..], &from.0, &[8, 0]].concat()
    }

    fn network() -> NetworkView {
        NetworkView {
            overlay_mtu: 1418,
            fdb: [(BOB, 0)].into_iter().collect(),
            members: vec![0, 1],
            local: [ALICE].into_iter().collect(),
            ..NetworkView::default()
        }
    }

    #[test]
    fn verdicts_follow_the_records_only() {
        let view = network();
        assert_eq!(view.forward(&frame(BOB, ALICE)), Verdict::Unicast(0));
        assert_eq!(view.forward(&frame(Mac::BROADCAST, ALICE)), Verdict::Flood);
        assert_eq!(view.forward(&frame(Mac([1, 0, 0x5e, 0, 0, 1]), ALICE)), Verdict::Flood);
        assert_eq!(view.forward(&frame(CAROL, ALICE)), Verdict::Drop(DropReason::UnknownUnicast));
        assert_eq!(view.forward(&frame(BOB, CAROL)), Verdict::Drop(DropReason::ForeignSource));
        assert_eq!(view.forward(&[0; 11]), Verdict::Drop(DropReason::Unsupported));
    }

    #[test]
    fn peers_are_admitted_with_their_own_addresses_only() {
        let id = NetworkId::from_u48(7);
        let snapshot = Snapshot { networks: [(id, network())].into_iter().collect(), ..Snapshot::default() };
        let admit = |peer, network, from| snapshot.admit(peer, network, &frame(ALICE, from));
        assert_eq!(admit(0, id, BOB), Ok(()));
        assert_eq!(admit(1, id, BOB), Err(DropReason::SpoofedMac));
        assert_eq!(admit(0, id, ALICE), Err(DropReason::SpoofedMac));
        assert_eq!(admit(2, id, BOB), Err(DropReason::NotMember));
        assert_eq!(admit(0, NetworkId::from_u48(8), BOB), Err(DropReason::UnknownNetwork));
        assert_eq!(snapshot.admit(0, id, &[0; 5]), Err(DropReason::BadInner));
    }

    #[test]
    fn hashes_of_like_keys_differ_in_low_and_high_bits() {
        use std::hash::BuildHasher;
        let build = BuildHasherDefault::<FastHasher>::default();
        let hashes: Vec<u64> =
            (0..4096u16).map(|i| build.hash_one(Mac([2, 0x42, 10, 0, (i >> 8) as u8, i as u8]))).collect();
        for shift in [0, 52] {
            let buckets: HashSet<u64> = hashes.iter().map(|h| (h >> shift) & 0xfff).collect();
            // 4096 balls in 4096 buckets leave about 63 % of them with one.
            assert!(buckets.len() > 2300, "{} at {shift}", buckets.len());
        }
    }
}
