//! Nobody uses another's address: whether all senders that a frame names belong to who sends it.

use std::net::IpAddr;

use weft_wire::{Mac, NetworkId};

use crate::DropReason;
use crate::content::{Arp, Content, Frame, GroupMessage, IGMP, Ip, NeighborKind, NeighborMessage};
use crate::groups::is_link_local_group;
use crate::neighbor::mac_of_link_local;
use crate::snapshot::{Neighbor, NetworkView, Owner, PeerIdx, Snapshot, Verdict};

/// The sender that was let through last, so that a flow's next frame is not looked up again. Valid for one [`Snapshot`]
/// and one [`Owner`]: whoever loads another makes another.
#[derive(Debug, Clone, Copy, Default)]
pub struct LastSender {
    network: Option<NetworkId>,
    key: SenderKey,
    /// Where its last frame went.
    route: Option<(Mac, PeerIdx)>,
}

/// What frames of one sender have in common; compared in whole words, since it is for every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SenderKey {
    /// Source address and type of the Ethernet header.
    head: u64,
    /// IP's source address.
    ip: u128,
}

/// As far as a key reaches: Ethernet, and IPv6 up to its source address.
const KEY_LEN: usize = 38;

impl SenderKey {
    /// `None` for frames that are not judged by their sender alone: what goes to a group, and what may be about neighbours
    /// or groups.
    #[inline]
    fn of(frame: &[u8]) -> Option<Self> {
        let head: &[u8; KEY_LEN] = frame.first_chunk()?;
        if head[0] & 1 == 1 {
            return None;
        }
        let ethernet = u64::from_be_bytes(*head[6..].first_chunk()?);
        let ip = match ethernet & 0xffff {
            0x0800 if head[14] >> 4 == 4 && head[23] != IGMP => {
                u128::from(u32::from_be_bytes(*head[26..].first_chunk()?))
            }
            0x86dd if matches!(head[20], 6 | 17) => u128::from_be_bytes(*head[22..].first_chunk()?),
            _ => return None,
        };
        Some(Self { head: ethernet, ip })
    }
}

impl LastSender {
    #[inline]
    fn is(&self, network: NetworkId, frame: &[u8]) -> bool {
        SenderKey::of(frame) == Some(self.key) && self.network == Some(network)
    }

    fn remember(&mut self, network: NetworkId, frame: &[u8]) {
        if let Some(key) = SenderKey::of(frame) {
            *self = Self { network: Some(network), key, route: None };
        }
    }
}

/// What is wrong with a frame's senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Malformed,
    Ip,
    Neighbor,
}

impl Fault {
    const fn reason(self, origin: Owner) -> DropReason {
        match (self, origin) {
            (Self::Malformed, Owner::Local) => DropReason::Unsupported,
            (Self::Malformed, Owner::Peer(_)) => DropReason::BadInner,
            (Self::Ip, Owner::Local) => DropReason::ForeignIp,
            (Self::Ip, Owner::Peer(_)) => DropReason::SpoofedIp,
            (Self::Neighbor, Owner::Local) => DropReason::ForeignNeighbor,
            (Self::Neighbor, Owner::Peer(_)) => DropReason::SpoofedNeighbor,
        }
    }
}

impl NetworkView {
    /// Where a frame of this host's containers on `network` (which this is) goes, once every sender that it names was
    /// found to be its own. ARP requests and neighbour solicitations go nowhere: they are answered here.
    #[must_use]
    #[inline]
    pub fn outgoing(&self, network: NetworkId, frame: &[u8], last: &mut LastSender) -> Verdict {
        if !last.is(network, frame) {
            return self.outgoing_slowly(network, frame, last);
        }
        if let Some((to, peer)) = last.route
            && frame.first_chunk() == Some(&to.0)
        {
            return Verdict::Unicast(peer);
        }
        let verdict = self.route(frame);
        if let (Verdict::Unicast(peer), Some(to)) = (verdict, frame.first_chunk()) {
            last.route = Some((Mac(*to), peer));
        }
        verdict
    }

    #[inline(never)]
    fn outgoing_slowly(&self, network: NetworkId, bytes: &[u8], last: &mut LastSender) -> Verdict {
        let Some(frame) = Frame::parse(bytes) else { return Verdict::Drop(DropReason::Unsupported) };
        if !self.may_send_locally(frame.source) {
            return Verdict::Drop(DropReason::ForeignSource);
        }
        if let Err(fault) = self.check(Owner::Local, &frame) {
            return Verdict::Drop(fault.reason(Owner::Local));
        }
        last.remember(network, bytes);
        self.resolve(&frame).or_else(|| self.route_group(&frame)).unwrap_or_else(|| self.route(bytes))
    }

    /// Where a multicast frame goes; `None` for broadcast and unicast.
    fn route_group(&self, frame: &Frame<'_>) -> Option<Verdict> {
        let Content::Ip(ip) = frame.content else {
            let is_multicast = frame.destination.is_group() && frame.destination != Mac::BROADCAST;
            return (is_multicast && !self.multicast).then_some(Verdict::Drop(DropReason::MulticastOff));
        };
        match ip.group_message() {
            Some(GroupMessage::Report) if self.multicast => return Some(Verdict::Report),
            // This host alone asks its containers.
            Some(_) => return Some(Verdict::Ignore),
            None => {}
        }
        if frame.destination == Mac::BROADCAST || !frame.destination.is_group() {
            return None;
        }
        if !self.multicast {
            // IPv6 does not work without this.
            let is_needed = matches!(ip.neighbor_message(), Ok(Some(_)));
            return Some(if is_needed { Verdict::Flood } else { Verdict::Drop(DropReason::MulticastOff) });
        }
        if !ip.destination.is_multicast() || is_link_local_group(ip.destination) {
            return None;
        }
        Some(if self.subscribers.contains_key(&ip.destination) {
            Verdict::Multicast(ip.destination)
        } else {
            Verdict::Drop(DropReason::NoSubscriber)
        })
    }

    /// What becomes of a question for an address; `None` for every other frame.
    fn resolve(&self, frame: &Frame<'_>) -> Option<Verdict> {
        let (target, is_probe) = match frame.content {
            // One for the sender's own address announces it.
            Content::Arp(arp) if arp.request && arp.sender != arp.target => {
                (IpAddr::V4(arp.target), arp.sender.is_unspecified())
            }
            Content::Ip(ip) => match ip.neighbor_message() {
                Ok(Some(NeighborMessage { kind: NeighborKind::Solicitation(target), .. })) => {
                    (IpAddr::V6(target), ip.source.is_unspecified())
                }
                _ => return None,
            },
            _ => return None,
        };
        match self.neighbor(target) {
            // The bridge has delivered it.
            Some(Neighbor { owner: Owner::Local, .. }) => Some(Verdict::Ignore),
            Some(Neighbor { mac, owner: Owner::Peer(_) }) => Some(Verdict::Answer(mac)),
            // Addresses without a record are used here, and their holders have to hear the question.
            None if !self.spoof_check => None,
            None if is_probe => Some(Verdict::Ignore),
            None => Some(Verdict::UnknownNeighbor(target)),
        }
    }

    /// Who has an address, by records, or as the link-local address that follows from a record.
    fn neighbor(&self, ip: IpAddr) -> Option<Neighbor> {
        if let Some(neighbor) = self.hosts.get(&ip) {
            return Some(*neighbor);
        }
        let IpAddr::V6(ip) = ip else { return None };
        let mac = mac_of_link_local(ip)?;
        if self.local.contains(&mac) {
            return Some(Neighbor { mac, owner: Owner::Local });
        }
        self.fdb.get(&mac).map(|peer| Neighbor { mac, owner: Owner::Peer(*peer) })
    }

    fn check(&self, origin: Owner, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame.content {
            Content::Arp(arp) => self.check_arp(origin, frame.source, &arp),
            Content::Ip(ip) => self.check_ip(origin, frame, &ip),
            Content::Other => Ok(()),
        }
    }

    fn check_arp(&self, origin: Owner, source: Mac, arp: &Arp) -> Result<(), Fault> {
        let is_probe = arp.request && arp.sender.is_unspecified();
        let own = arp.sender_mac == source && (is_probe || self.owns(origin, source, arp.sender.into()));
        if own || !self.spoof_check { Ok(()) } else { Err(Fault::Neighbor) }
    }

    fn check_ip(&self, origin: Owner, frame: &Frame<'_>, ip: &Ip<'_>) -> Result<(), Fault> {
        let message = ip.neighbor_message().map_err(|_| Fault::Malformed)?;
        // What a host says about groups it says in its records; a query or report of another host would confuse this one's
        // containers.
        if origin != Owner::Local && ip.group_message().is_some() {
            return Err(Fault::Malformed);
        }
        if !self.spoof_check {
            return Ok(());
        }
        // Who has no address yet asks for one, or whether it is free, and says in which groups it is.
        let is_nameless = ip.source.is_unspecified() && frame.destination.is_group();
        if !is_nameless && !self.owns(origin, frame.source, ip.source) {
            return Err(Fault::Ip);
        }
        let Some(message) = message else { return Ok(()) };
        let own_links = message.links().all(|link| link == Ok(frame.source));
        let own = match message.kind {
            NeighborKind::Solicitation(_) | NeighborKind::RouterSolicitation => {
                // RFC 4861, section 7.1.1.
                !is_nameless || message.links().next().is_none()
            }
            NeighborKind::Advertisement(target) => {
                !is_nameless && self.owns(origin, frame.source, target.into())
            }
            // No container is the network's router; one that says so wants the others' traffic.
            NeighborKind::OfRouters => false,
        };
        if own && own_links { Ok(()) } else { Err(Fault::Neighbor) }
    }

    /// Whether `ip` is an address of the endpoint with the address `mac`.
    ///
    /// Records do not list link-local addresses: those may be used that neither a record nor another's Ethernet address
    /// claims.
    fn owns(&self, origin: Owner, mac: Mac, ip: IpAddr) -> bool {
        match self.neighbor(ip) {
            Some(neighbor) => neighbor == Neighbor { mac, owner: origin },
            None => matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()),
        }
    }
}

impl Snapshot {
    /// Whether `peer` may put `frame` onto `network`: it is a member, and every sender that the frame names is its own.
    ///
    /// # Errors
    /// Why not.
    #[inline]
    pub fn incoming(
        &self,
        peer: PeerIdx,
        network: NetworkId,
        frame: &[u8],
        last: &mut LastSender,
    ) -> Result<(), DropReason> {
        if last.is(network, frame) {
            return Ok(());
        }
        self.incoming_slowly(peer, network, frame, last)
    }

    #[inline(never)]
    fn incoming_slowly(
        &self,
        peer: PeerIdx,
        network: NetworkId,
        bytes: &[u8],
        last: &mut LastSender,
    ) -> Result<(), DropReason> {
        self.admit(peer, network, bytes)?;
        let view = self.networks.get(&network).ok_or(DropReason::UnknownNetwork)?;
        let frame = Frame::parse(bytes).ok_or(DropReason::BadInner)?;
        let origin = Owner::Peer(peer);
        view.check(origin, &frame).map_err(|fault| fault.reason(origin))?;
        last.remember(network, bytes);
        Ok(())
    }
}
