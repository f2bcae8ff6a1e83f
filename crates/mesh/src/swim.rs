//! `foca` with the timers it asks for.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use foca::{
    AccumulatingRuntime, Codec as _, Config, Foca, Header, Member, NoCustomBroadcast, OwnedNotification,
    PostcardCodec, Timer,
};
use rand::rngs::SmallRng;

use crate::config::Timers;
use crate::swim_id::SwimId;

/// Longest packet of membership news.
pub(crate) const MAX_PACKET_LEN: usize = crate::MAX_MESSAGE_LEN - 1;

#[derive(Debug)]
struct Due {
    at: Instant,
    order: u64,
    timer: Timer<SwimId>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A packet of `foca`'s: its head, and what follows it.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) header: Header<SwimId>,
    whole: &'a [u8],
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the head; `None` when it is malformed.
    pub(crate) fn parse(whole: &'a [u8]) -> Option<Self> {
        let mut body = whole;
        let header = PostcardCodec.decode_header(&mut body).ok()?;
        Some(Self { header, whole, body })
    }

    /// The news of members that it carries, and what follows them; `None` when they are malformed.
    fn news(&self) -> Option<(Vec<Member<SwimId>>, &'a [u8])> {
        let Some((n_members, mut rest)) = self.body.split_first_chunk::<2>() else {
            return Some((Vec::new(), self.body));
        };
        if self.header.message == foca::Message::Broadcast {
            return Some((Vec::new(), self.body));
        }
        let members =
            (0..u16::from_be_bytes(*n_members)).map(|_| PostcardCodec.decode_member(&mut rest).ok());
        let members = members.collect::<Option<_>>()?;
        Some((members, rest))
    }

    /// The packet without the news that `keep` does not want; `None` when it is malformed.
    pub(crate) fn sifted(&self, keep: impl FnMut(&Member<SwimId>) -> bool) -> Option<Cow<'a, [u8]>> {
        let (mut members, tail) = self.news()?;
        let n_members = members.len();
        members.retain(keep);
        if members.len() == n_members {
            return Some(Cow::Borrowed(self.whole));
        }
        self.with_news(&members, tail).map(Cow::Owned)
    }

    /// The packet with other news; `None` when a member does not encode, which none that was decoded does.
    pub(crate) fn with_news(&self, members: &[Member<SwimId>], tail: &[u8]) -> Option<Vec<u8>> {
        let head = self.whole.get(..self.whole.len() - self.body.len())?;
        let mut packet = head.to_vec();
        packet.extend(u16::try_from(members.len()).ok()?.to_be_bytes());
        for member in members {
            packet = postcard::to_extend(member, packet).ok()?;
        }
        packet.extend(tail);
        Some(packet)
    }
}

/// Membership and failure detection.
pub(crate) struct Swim {
    foca: Foca<SwimId, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<SwimId>,
    timers: BinaryHeap<Reverse<Due>>,
    /// When news may be passed on next. It is nothing to wake up for while there is none, which is most of the time.
    gossip: Option<Due>,
    order: u64,
    config: Config,
}

/// What foca wants done.
pub(crate) enum Action {
    Send(SwimId, Vec<u8>),
    Note(OwnedNotification<SwimId>),
}

const fn non_zero(n: usize) -> NonZeroUsize {
    match NonZeroUsize::new(n) {
        Some(n) => n,
        None => NonZeroUsize::MIN,
    }
}

/// How often one piece of news is passed on in a cluster of `n`: 4 for each decimal digit (as memberlist does).
fn max_transmissions(n: usize) -> NonZeroU8 {
    let digits = (n + 1).ilog10() as u8 + 1;
    NonZeroU8::new(digits.saturating_mul(4)).unwrap_or(NonZeroU8::MIN)
}

impl Swim {
    pub(crate) fn new(id: SwimId, timers: &Timers, rng: SmallRng) -> Self {
        let config = Config {
            probe_period: timers.probe_period,
            probe_rtt: timers.probe_rtt,
            num_indirect_probes: non_zero(3),
            max_transmissions: max_transmissions(0),
            suspect_to_down_after: timers.suspect,
            remove_down_after: Some(Duration::from_secs(3600)),
            max_packet_size: non_zero(MAX_PACKET_LEN),
            notify_down_members: true,
            // Joining and healing are done by comparing digests, in one round trip for all that differs.
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(foca::PeriodicParams {
                frequency: timers.gossip,
                num_members: non_zero(3),
            }),
        };
        Self {
            foca: Foca::new(id, config.clone(), rng, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            gossip: None,
            order: 0,
            config,
        }
    }

    pub(crate) const fn id(&self) -> &SwimId {
        self.foca.identity()
    }

    /// Handles a packet. `false` when it is malformed.
    pub(crate) fn handle_data(&mut self, packet: &[u8]) -> bool {
        use foca::Error;
        match self.foca.handle_data(packet, &mut self.runtime) {
            Ok(()) => true,
            Err(error) => !matches!(error, Error::Decode(_) | Error::MalformedPacket | Error::DataTooBig),
        }
    }

    /// Takes over what is known of members.
    pub(crate) fn apply(&mut self, members: Vec<Member<SwimId>>) {
        // News that many learn at the same time by comparing needs no passing on.
        let spread = members.len() <= 8 && self.foca.updates_backlog() < 64;
        // An error here is one of encoding for others: the update is applied all the same.
        let _ = self.foca.apply_many(members.into_iter(), spread, &mut self.runtime);
    }

    /// Goes on under another name.
    pub(crate) fn change_id(&mut self, id: SwimId) {
        let _ = self.foca.change_identity(id, &mut self.runtime);
    }

    pub(crate) fn leave(&mut self) {
        let _ = self.foca.leave_cluster(&mut self.runtime);
    }

    /// Adapts to the number of members.
    pub(crate) fn resize(&mut self, n_members: usize) {
        let wanted = max_transmissions(n_members);
        if self.config.max_transmissions != wanted {
            self.config.max_transmissions = wanted;
            let _ = self.foca.set_config(self.config.clone());
        }
    }

    fn has_news(&self) -> bool {
        self.foca.updates_backlog() > 0
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let gossip = self.gossip.as_ref().filter(|_| self.has_news());
        self.timers.peek().map(|Reverse(due)| due).into_iter().chain(gossip).map(|due| due.at).min()
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.timers.pop() else { break };
            self.run_timer(due, now);
        }
        if self.has_news()
            && let Some(due) = self.gossip.take_if(|due| due.at <= now)
        {
            self.run_timer(due, now);
        }
    }

    fn run_timer(&mut self, due: Due, now: Instant) {
        // Foca resumes a probe cycle that was cut off by itself.
        let _ = self.foca.handle_timer(due.timer, &mut self.runtime);
        self.schedule(due.at.max(now));
    }

    /// What is to be done next, until `None`.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        self.schedule(now);
        if let Some(note) = self.runtime.to_notify() {
            return Some(Action::Note(note));
        }
        self.runtime.to_send().map(|(to, packet)| Action::Send(to, packet.to_vec()))
    }

    fn schedule(&mut self, now: Instant) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.order += 1;
            let due = Due { at: now + after, order: self.order, timer };
            match due.timer {
                // One of an earlier life is of no use.
                Timer::PeriodicGossip(_) => self.gossip = Some(due),
                _ => self.timers.push(Reverse(due)),
            }
        }
    }
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim")
            .field("id", self.id())
            .field("n_timers", &self.timers.len())
            .finish_non_exhaustive()
    }
}
