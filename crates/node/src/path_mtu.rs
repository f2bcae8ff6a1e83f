//! How much the path to a peer carries, found out by probes of that size (RFC 8899).
//!
//! A round is one probe of every size in question, and one that any path carries. Only a round in which that one was
//! answered says something: so loss of everything is not taken for a short path, and who does not answer probes is
//! sent what always passes. Sizes are the overlay's: the longest IP packet of a container that goes whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{CryptoRng, RngExt};
use weft_dataplane::PathView;
use weft_wire::MIN_UNDERLAY_MTU;

/// Rounds in which a size is not answered before it counts as too long.
const MAX_TRIES: u8 = 3;
/// Sizes that are tried at once between two known ones.
const N_BETWEEN: u16 = 8;
/// A search that is this close to what does not pass has ended.
const GRAIN: u16 = 8;
/// How often a path that frames were sent on is confirmed.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// How often another is.
const CONFIRM_IDLE_EVERY: Duration = Duration::from_secs(60);
/// How often more than what is known to pass is tried.
const RAISE_EVERY: Duration = Duration::from_secs(60);
/// How long an answer may take before the round trip is known.
const FIRST_TIMEOUT: Duration = Duration::from_millis(500);
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the longer probes may come behind the one that always passes.
const DISORDER: Duration = Duration::from_millis(100);

/// MTUs that underlays have: IPv6's minimum, what leaves IPv6's minimum inside, tunnels of all kinds, DSL, Ethernet, clouds,
/// jumbo frames.
const USUAL: [u16; 14] = [1280, 1362, 1382, 1400, 1420, 1428, 1440, 1450, 1460, 1472, 1492, 1500, 8951, 9000];

/// A probe to send: so long that the datagram is that of a frame with a packet of `overlay_mtu` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) nonce: u32,
    pub(crate) overlay_mtu: u16,
}

/// Probes of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// Sent.
    pub sent: u64,
    /// Answered.
    pub answered: u64,
    /// Not answered by the end of their round.
    pub lost: u64,
}

/// How far a search is, in the words of RFC 8899, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchState {
    /// Nothing is probed: there is no way to the peer, or no network in common.
    Disabled,
    /// It is not known yet whether the base passes.
    Base,
    /// Larger sizes are tried.
    Searching,
    /// What passes is known.
    Complete,
    /// Not even the base is answered.
    Error,
}

/// What is known of a path, for an operator. Sizes are the overlay's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtuReport {
    /// How far the search is.
    pub state: SearchState,
    /// What passes.
    pub passes: u16,
    /// What is taken to pass everywhere.
    pub base: u16,
    /// More is not looked for.
    pub ceiling: u16,
    /// What the underlay's packet has around the container's; `None` while nothing was tried.
    pub overhead: Option<u16>,
    /// Where datagrams leave for: the peer, or its relay.
    pub remote: Option<SocketAddr>,
    /// Sizes that the last search gave up.
    pub failed: Vec<u16>,
    /// Sizes that are asked for and not answered so far.
    pub waiting: Vec<u16>,
    /// Probes since the peer is known.
    pub probes: ProbeCounts,
}

/// The way that frames to a peer take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where they leave for: the peer, or its relay.
    pub(crate) remote: SocketAddr,
    /// What the underlay's packet has around the container's.
    pub(crate) overhead: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Search,
    Confirm,
    Idle,
}

/// What is known of the path to one peer, in the direction to it.
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// What is known is of this route; `None`: nothing was tried.
    route: Option<Route>,
    /// What any path carries.
    base: u16,
    /// More is of no use.
    ceiling: u16,
    /// The largest size that was answered.
    passes: u16,
    /// The smallest that was not; above `ceiling` when there is none.
    fails: u16,
    limited: bool,
    phase: Phase,
    /// Probes of this round that were not answered.
    unanswered: Vec<Probe>,
    /// Nonce of the probe that always passes, until it is answered.
    control: Option<u32>,
    /// Rounds that asked for these sizes and said something.
    n_tries: u8,
    /// Rounds since one said something.
    n_silent: u32,
    deadline: Instant,
    /// When to look whether it is in use, and when to confirm it though it is not.
    next_look: Instant,
    confirm_by: Instant,
    next_raise: Instant,
    /// Frames sent up to the last confirmation.
    n_sent: u64,
    /// Sizes that this search has given up.
    failed: Vec<u16>,
    counts: ProbeCounts,
}

impl PathMtu {
    pub(crate) fn new(now: Instant) -> Self {
        // Until a route is known: less than any leaves.
        let base = MIN_UNDERLAY_MTU - 200;
        Self {
            route: None,
            base,
            ceiling: base,
            passes: base,
            fails: base + 1,
            limited: false,
            phase: Phase::Idle,
            unanswered: Vec::new(),
            control: None,
            n_tries: 0,
            n_silent: 0,
            deadline: now,
            next_look: now,
            confirm_by: now,
            next_raise: now,
            n_sent: 0,
            failed: Vec::new(),
            counts: ProbeCounts::default(),
        }
    }

    /// What forwarding is told.
    pub(crate) fn view(&self) -> PathView {
        PathView { overlay_mtu: self.passes, limited: self.limited }
    }

    /// Frames take `route`, and more than `ceiling` is of no use. Nothing happens when both are known; another route is
    /// another path.
    pub(crate) fn aim(&mut self, route: Route, ceiling: u16, now: Instant) {
        if self.route != Some(route) {
            self.route = Some(route);
            self.base = MIN_UNDERLAY_MTU.saturating_sub(route.overhead);
            self.ceiling = ceiling.max(self.base);
            self.search_anew(now);
        } else if self.ceiling != ceiling.max(self.base) {
            self.ceiling = ceiling.max(self.base);
            self.limited &= self.passes < self.ceiling;
            self.search(now);
        }
    }

    /// Looks now instead of later: whether what is known to pass still does, and if it is not all, whether more does. What
    /// is known counts meanwhile. Nothing happens while a search is under way.
    pub(crate) fn look_now(&mut self, now: Instant) {
        if self.phase != Phase::Idle || self.route.is_none() {
            return;
        }
        if self.passes < self.ceiling {
            self.search(now);
        } else {
            self.start(Phase::Confirm, now);
        }
    }

    /// For an operator.
    pub(crate) fn report(&self) -> PathMtuReport {
        let state = match self.phase {
            _ if self.route.is_none() => SearchState::Disabled,
            Phase::Search | Phase::Confirm if self.n_silent >= u32::from(MAX_TRIES) => SearchState::Error,
            Phase::Search if self.passes == self.base && self.control.is_some() => SearchState::Base,
            Phase::Search => SearchState::Searching,
            Phase::Confirm | Phase::Idle => SearchState::Complete,
        };
        PathMtuReport {
            state,
            passes: self.passes,
            base: self.base,
            ceiling: self.ceiling,
            overhead: self.route.map(|route| route.overhead),
            remote: self.route.map(|route| route.remote),
            failed: self.failed.clone(),
            waiting: self.unanswered.iter().map(|probe| probe.overlay_mtu).collect(),
            probes: self.counts,
        }
    }

    /// Whether nothing is asked at the moment.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// The peer was away: what passed may not pass any more.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.phase == Phase::Idle {
            self.start(Phase::Confirm, now);
        }
    }

    /// This host's interface refused a frame with a packet of `overlay_mtu` bytes.
    pub(crate) fn refused(&mut self, overlay_mtu: usize, now: Instant) {
        if overlay_mtu <= usize::from(self.passes) && self.passes > self.base {
            self.search_anew(now);
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Idle if self.limited => self.next_look.min(self.next_raise),
            Phase::Idle => self.next_look,
            Phase::Search | Phase::Confirm => self.deadline,
        }
    }

    /// The probes that are due. `n_sent`: frames sent to the peer so far.
    pub(crate) fn poll(
        &mut self,
        n_sent: u64,
        rtt: Option<Duration>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Vec<Probe> {
        if self.route.is_none() || now < self.deadline() {
            return Vec::new();
        }
        match self.phase {
            Phase::Idle if self.limited && now >= self.next_raise => self.search(now),
            Phase::Idle if n_sent == self.n_sent && now < self.confirm_by => {
                self.next_look = now + CONFIRM_EVERY;
            }
            Phase::Idle => {
                self.n_sent = n_sent;
                self.start(Phase::Confirm, now);
            }
            Phase::Search | Phase::Confirm => self.end_round(now),
        }
        if self.phase == Phase::Idle {
            return Vec::new();
        }
        let sizes: Vec<u16> = if self.unanswered.is_empty() {
            self.sizes()
        } else {
            self.unanswered.iter().map(|probe| probe.overlay_mtu).collect()
        };
        let mut nonce = || rng.random_range(1..=u32::MAX);
        self.unanswered =
            sizes.into_iter().map(|overlay_mtu| Probe { nonce: nonce(), overlay_mtu }).collect();
        let control = Probe { nonce: nonce(), overlay_mtu: self.base };
        self.control = Some(control.nonce);
        self.n_tries += 1;
        self.counts.sent += self.unanswered.len() as u64 + 1;
        let timeout = rtt.map_or(FIRST_TIMEOUT, |rtt| (rtt * 3).clamp(MIN_TIMEOUT, MAX_TIMEOUT));
        self.deadline = now + timeout * (1 << self.n_silent.min(4));
        // Whatever is in front of it was lost when it is answered.
        self.unanswered.iter().copied().chain([control]).collect()
    }

    /// A probe was answered. Whether [`view`](Self::view) changed.
    pub(crate) fn answered(&mut self, nonce: u32, now: Instant) -> bool {
        let before = self.view();
        let probe = self.unanswered.iter().find(|probe| probe.nonce == nonce);
        let Some(size) = probe.map(|p| p.overlay_mtu).or((self.control == Some(nonce)).then_some(self.base))
        else {
            return false;
        };
        self.counts.answered += 1;
        // One witness is enough.
        self.control = None;
        self.deadline = self.deadline.min(now + DISORDER);
        self.passes = self.passes.max(size);
        self.unanswered.retain(|probe| probe.overlay_mtu > size);
        if self.unanswered.is_empty() {
            self.deadline = now;
            if self.phase == Phase::Confirm || self.passes >= self.ceiling {
                self.settle(now);
            }
        }
        self.view() != before
    }

    /// Sizes for the next round of a search, none of them known.
    fn sizes(&self) -> Vec<u16> {
        if self.phase == Phase::Confirm {
            return vec![self.passes];
        }
        let open = |size: &u16| self.passes < *size && *size < self.fails;
        let less = self.route.map_or(0, |route| route.overhead);
        let mut sizes: Vec<u16> = USUAL.iter().filter_map(|mtu| mtu.checked_sub(less)).filter(open).collect();
        sizes.retain(|size| *size < self.ceiling);
        if open(&self.ceiling) {
            sizes.push(self.ceiling);
        } else if sizes.is_empty() {
            let between = u32::from(self.fails - self.passes);
            let step = |i: u16| between * u32::from(i) / u32::from(N_BETWEEN + 1);
            sizes.extend((1..=N_BETWEEN).map(|i| self.passes + step(i) as u16).filter(open));
            sizes.dedup();
        }
        sizes
    }

    /// The round's time is over, or none was yet.
    fn end_round(&mut self, now: Instant) {
        if self.n_tries == 0 {
            return;
        }
        self.counts.lost += self.unanswered.len() as u64 + u64::from(self.control.is_some());
        if self.control.is_some() {
            self.n_tries -= 1;
            self.n_silent += 1;
            return;
        }
        self.n_silent = 0;
        if self.unanswered.is_empty() {
            self.n_tries = 0;
        } else if self.n_tries >= MAX_TRIES {
            if self.phase == Phase::Confirm {
                // It carried this once, and carries less now.
                return self.search_anew(now);
            }
            self.failed.extend(self.unanswered.iter().map(|probe| probe.overlay_mtu));
            let least = self.unanswered.drain(..).map(|probe| probe.overlay_mtu).min();
            self.fails = least.unwrap_or(self.fails);
            self.n_tries = 0;
        }
        if self.phase == Phase::Search && self.has_ended() {
            self.settle(now);
        }
    }

    fn has_ended(&self) -> bool {
        self.passes >= self.ceiling || (self.fails <= self.ceiling && self.fails - self.passes <= GRAIN)
    }

    fn settle(&mut self, now: Instant) {
        self.phase = Phase::Idle;
        self.unanswered.clear();
        self.control = None;
        self.limited = self.passes < self.ceiling;
        self.next_look = now + CONFIRM_EVERY;
        self.confirm_by = now + CONFIRM_IDLE_EVERY;
        self.next_raise = now + RAISE_EVERY;
    }

    fn start(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.unanswered.clear();
        self.control = None;
        self.n_tries = 0;
        self.n_silent = 0;
        self.deadline = now;
    }

    /// Tries what is more than what passes.
    fn search(&mut self, now: Instant) {
        self.fails = self.ceiling.saturating_add(1);
        self.failed.clear();
        self.start(Phase::Search, now);
        if self.passes >= self.ceiling {
            self.settle(now);
        }
    }

    /// Forgets what passes.
    fn search_anew(&mut self, now: Instant) {
        self.passes = self.base;
        self.limited = false;
        self.search(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// A path in virtual time.
    struct Path {
        mtu: PathMtu,
        now: Instant,
        start: Instant,
        carries: u16,
        rtt: Duration,
        loss: f64,
        rng: StdRng,
        /// Answers under way.
        answers: Vec<(Instant, u32)>,
        n_probes: usize,
        n_sent: u64,
        /// What was seen of it, without repetitions.
        seen: Vec<PathView>,
    }

    const CEILING: u16 = 1418;

    fn route(remote: &str) -> Route {
        let remote: SocketAddr = remote.parse().unwrap();
        Route { remote, overhead: if remote.is_ipv4() { 82 } else { 102 } }
    }

    impl Path {
        /// On an underlay of so many bytes.
        fn new(carries: u16, ceiling: u16) -> Self {
            let now = Instant::now();
            let mut mtu = PathMtu::new(now);
            mtu.aim(route("192.0.2.1:6783"), ceiling, now);
            let (rng, rtt) = (StdRng::seed_from_u64(5), Duration::from_millis(20));
            let (answers, seen) = (Vec::new(), Vec::new());
            Self { mtu, now, start: now, carries, rtt, loss: 0.0, rng, answers, n_probes: 0, n_sent: 0, seen }
        }

        fn run_for(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(5);
                let now = self.now;
                let arrived: Vec<u32> =
                    self.answers.extract_if(.., |(at, _)| *at <= now).map(|a| a.1).collect();
                for nonce in arrived {
                    let before = self.mtu.view();
                    let changed = self.mtu.answered(nonce, now);
                    assert_eq!(changed, self.mtu.view() != before);
                }
                for probe in self.mtu.poll(self.n_sent, Some(self.rtt), now, &mut self.rng) {
                    self.n_probes += 1;
                    if probe.overlay_mtu + 82 <= self.carries && !self.rng.random_bool(self.loss) {
                        self.answers.push((now + self.rtt, probe.nonce));
                    }
                }
                if self.seen.last() != Some(&self.mtu.view()) {
                    self.seen.push(self.mtu.view());
                }
            }
        }

        fn settled(&mut self) -> PathView {
            let deadline = self.now + Duration::from_secs(20);
            while self.mtu.phase != Phase::Idle {
                assert!(self.now < deadline, "the search does not end: {:?}", self.mtu);
                self.run_for(Duration::from_millis(5));
            }
            self.mtu.view()
        }
    }

    #[test]
    fn a_path_that_carries_all_is_known_after_one_round_trip() {
        for ceiling in [1280, 1418, 8918, 65_453] {
            let mut path = Path::new(65_535, ceiling);
            assert_eq!(path.settled(), PathView { overlay_mtu: ceiling, limited: false });
            assert!(
                path.now - path.start <= path.rtt + Duration::from_millis(10),
                "{:?}",
                path.now - path.start
            );
            assert_eq!(path.seen[0], PathView { overlay_mtu: 1198, limited: false }, "the base before that");
        }
    }

    #[test]
    fn a_path_that_carries_less_is_known_to_some_bytes_within_two_seconds() {
        for (ceiling, underlay) in
            (1280..=1500).map(|u| (1418, u)).chain([1492, 4000, 7001, 8999].map(|u| (8918, u)))
        {
            let mut path = Path::new(underlay, ceiling);
            let view = path.settled();
            let most = (underlay - 82).min(ceiling);
            assert!(view.overlay_mtu <= most && view.overlay_mtu + GRAIN > most, "{underlay}: {view:?}");
            assert_eq!(view.limited, view.overlay_mtu < ceiling);
            assert!(
                path.now - path.start < Duration::from_secs(2),
                "{underlay}: {:?}",
                path.now - path.start
            );
            assert!(path.n_probes < 120, "{underlay}: {} probes", path.n_probes);
        }
        for usual in USUAL.iter().filter(|mtu| **mtu <= 1500) {
            assert_eq!(Path::new(*usual, CEILING).settled().overlay_mtu, (usual - 82).min(CEILING));
        }
    }

    #[test]
    fn loss_makes_it_slower_and_the_next_try_makes_it_right() {
        let mut path = Path::new(1500, CEILING);
        path.loss = 0.3;
        path.settled();
        path.run_for(3 * RAISE_EVERY);
        assert_eq!(path.settled(), PathView { overlay_mtu: CEILING, limited: false });
    }

    #[test]
    fn a_black_hole_is_noticed_while_frames_are_sent() {
        let mut path = Path::new(1500, CEILING);
        path.settled();
        path.carries = 1400;
        path.n_sent += 1;
        path.run_for(CONFIRM_EVERY + Duration::from_secs(3));
        assert_eq!(path.settled(), PathView { overlay_mtu: 1318, limited: true });
    }

    #[test]
    fn an_idle_path_is_confirmed_seldom() {
        let mut path = Path::new(1500, CEILING);
        path.settled();
        path.n_probes = 0;
        path.run_for(Duration::from_secs(600));
        assert!((2 * 8..=2 * 12).contains(&path.n_probes), "{} probes", path.n_probes);
        path.carries = 1300;
        path.run_for(CONFIRM_IDLE_EVERY + Duration::from_secs(3));
        assert_eq!(path.settled().overlay_mtu, 1218);
    }

    #[test]
    fn a_path_that_carries_more_again_is_noticed() {
        let mut path = Path::new(1400, CEILING);
        path.settled();
        path.run_for(2 * RAISE_EVERY);
        assert!(path.seen.iter().all(|view| !view.limited || view.overlay_mtu == 1318), "{:?}", path.seen);
        path.carries = 1500;
        path.run_for(RAISE_EVERY + Duration::from_secs(1));
        assert_eq!(path.settled(), PathView { overlay_mtu: CEILING, limited: false });
    }

    #[test]
    fn silence_is_no_short_path() {
        let mut path = Path::new(1500, CEILING);
        path.settled();
        path.n_sent += 1;
        path.loss = 1.0;
        path.run_for(Duration::from_secs(300));
        assert_eq!(path.mtu.view(), PathView { overlay_mtu: CEILING, limited: false });
        path.loss = 0.0;
        path.run_for(Duration::from_secs(3));
        assert_eq!(path.settled().overlay_mtu, CEILING);
    }

    #[test]
    fn who_never_answers_is_sent_what_always_passes_and_containers_are_told_nothing() {
        let mut path = Path::new(1000, CEILING);
        path.run_for(Duration::from_secs(300));
        assert_eq!(path.mtu.view(), PathView { overlay_mtu: 1198, limited: false });
    }

    #[test]
    fn another_address_is_another_path_and_the_interfaces_word_counts_at_once() {
        let mut path = Path::new(1500, CEILING);
        path.settled();
        path.mtu.aim(route("192.0.2.1:6783"), CEILING, path.now);
        assert_eq!(path.mtu.view().overlay_mtu, CEILING, "nothing new");
        path.mtu.refused(1419, path.now);
        assert_eq!(path.mtu.view().overlay_mtu, CEILING, "more than was promised");
        path.carries = 1450;
        path.mtu.refused(1418, path.now);
        assert_eq!(path.mtu.view().overlay_mtu, 1198);
        assert_eq!(path.settled(), PathView { overlay_mtu: 1368, limited: true });
        path.mtu.aim(route("[2001:db8::1]:6783"), CEILING, path.now);
        assert_eq!(path.mtu.view(), PathView { overlay_mtu: 1178, limited: false });
        path.settled();
        path.mtu.aim(route("[2001:db8::1]:6783"), 1280, path.now);
        assert_eq!(path.settled(), PathView { overlay_mtu: path.mtu.passes, limited: false });
    }

    #[test]
    fn an_operator_is_told_how_far_the_search_is() {
        let now = Instant::now();
        assert_eq!(PathMtu::new(now).report().state, SearchState::Disabled);
        let mut path = Path::new(1400, CEILING);
        assert_eq!(path.mtu.report().state, SearchState::Searching);
        path.run_for(Duration::from_millis(10));
        assert_eq!(path.mtu.report().state, SearchState::Base);
        path.run_for(Duration::from_millis(30));
        assert_eq!(path.mtu.report().state, SearchState::Searching);
        path.run_for(Duration::from_secs(10));
        let report = path.mtu.report();
        assert_eq!((report.state, report.passes, report.overhead), (SearchState::Complete, 1318, Some(82)));
        assert!(report.failed.contains(&CEILING) && report.waiting.is_empty(), "{report:?}");
        let ProbeCounts { sent, answered, lost } = report.probes;
        assert!(
            sent as usize == path.n_probes && answered > 0 && lost > 0 && answered + lost <= sent,
            "{report:?}"
        );
        path.carries = 1000;
        path.mtu.look_now(path.now);
        path.run_for(Duration::from_secs(10));
        assert_eq!(path.mtu.report().state, SearchState::Error);
    }

    #[test]
    fn looking_now_takes_nothing_away_and_finds_more() {
        let mut path = Path::new(1400, CEILING);
        path.run_for(Duration::from_secs(10));
        path.carries = 1500;
        path.mtu.look_now(path.now);
        assert_eq!(path.mtu.view(), PathView { overlay_mtu: 1318, limited: true });
        path.run_for(Duration::from_millis(100));
        assert_eq!(path.mtu.view(), PathView { overlay_mtu: CEILING, limited: false });
        assert!(path.mtu.is_idle());
        let n_probes = path.n_probes;
        path.mtu.look_now(path.now);
        assert!(!path.mtu.is_idle());
        path.run_for(Duration::from_millis(100));
        assert!(path.mtu.is_idle() && path.n_probes == n_probes + 2, "one of the size, one of the base");
    }
}
