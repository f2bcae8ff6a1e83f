//! Many meshes in virtual time, with delay, loss, splits and restarts, and the truth to hold them against.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use weft_mesh::{
    Endpoint, EndpointTag, Event, IdentityKey, Membership, Mesh, MeshConfig, SignatureCache, Target, Timers,
};
use weft_wire::{Mac, NetworkId, PeerId};

/// Added to each message when bytes on the wire are counted: IPv4, UDP, outer and inner header, tag.
pub(crate) const OVERHEAD: u64 = 20 + 8 + 16 + 8 + 16;

enum What {
    Deliver { to: usize, from: usize, bytes: Vec<u8> },
    Wake(usize),
}

struct Item {
    at: Duration,
    order: u64,
    what: What,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One host.
pub(crate) struct Node {
    pub(crate) id: PeerId,
    /// `None` while it does not run.
    pub(crate) mesh: Option<Mesh>,
    seed: [u8; 32],
    incarnation: u64,
    pub(crate) address: SocketAddr,
    pub(crate) seeds: Vec<SocketAddr>,
    /// What it is in and what it has there: the truth that all are to agree on.
    pub(crate) networks: BTreeMap<NetworkId, BTreeMap<EndpointTag, Endpoint>>,
    /// Only nodes of the same side hear each other.
    pub(crate) side: u32,
    wake: Option<Duration>,
    /// From which host messages of an id that two hosts share came last.
    heard: HashMap<PeerId, usize>,
    pub(crate) n_bytes: u64,
    pub(crate) n_messages: u64,
    /// Number of the newest state seen of each endpoint in this run, and in this stay in the network.
    newest: HashMap<(NetworkId, PeerId, EndpointTag), u64>,
    pub(crate) twins: Vec<PeerId>,
    pub(crate) n_duplicates: usize,
}

/// All hosts and the network between them.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) rng: SmallRng,
    start: Instant,
    pub(crate) now: Duration,
    queue: BinaryHeap<Reverse<Item>>,
    order: u64,
    pub(crate) nodes: Vec<Node>,
    by_id: HashMap<PeerId, usize>,
    by_address: HashMap<SocketAddr, usize>,
    pub(crate) loss: f64,
    pub(crate) timers: Timers,
    cache: SignatureCache,
    /// Every endpoint state that its owner ever set.
    history: HashSet<(PeerId, NetworkId, EndpointTag, u64)>,
    n_states: u64,
    /// Downs of peers that ran and were reachable the whole time.
    pub(crate) n_false_downs: usize,
    pub(crate) judge_downs: bool,
    /// Hosts whose messages a traitor copies, changes and sends as its own.
    pub(crate) traitor: Option<usize>,
    captured: Vec<Vec<u8>>,
    twin: Option<PeerId>,
}

pub(crate) fn network(n: usize) -> NetworkId {
    NetworkId::from_name(&format!("network {n}"))
}

impl World {
    pub(crate) fn new(seed: u64, n: usize) -> Self {
        let mut world = Self {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            start: Instant::now(),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            nodes: Vec::new(),
            by_id: HashMap::new(),
            by_address: HashMap::new(),
            loss: 0.0,
            timers: Timers::default(),
            cache: SignatureCache::default(),
            history: HashSet::new(),
            n_states: 0,
            n_false_downs: 0,
            judge_downs: false,
            traitor: None,
            captured: Vec::new(),
            twin: None,
        };
        for i in 0..n {
            let mut seed = [0; 32];
            world.rng.fill(&mut seed);
            world.add(i, seed);
        }
        world
    }

    fn add(&mut self, i: usize, seed: [u8; 32]) {
        let id = IdentityKey::from_seed(&seed).peer_id();
        let address = SocketAddr::from((Ipv4Addr::new(10, 0, (i >> 8) as u8, i as u8), 6783));
        self.by_id.entry(id).or_insert(i);
        self.by_address.insert(address, i);
        self.nodes.push(Node {
            id,
            mesh: None,
            seed,
            incarnation: 1_700_000_000_000,
            address,
            seeds: Vec::new(),
            networks: BTreeMap::new(),
            side: 0,
            wake: None,
            heard: HashMap::new(),
            n_bytes: 0,
            n_messages: 0,
            newest: HashMap::new(),
            twins: Vec::new(),
            n_duplicates: 0,
        });
    }

    /// A host with the key of host `of`.
    pub(crate) fn add_twin(&mut self, of: usize) -> usize {
        let i = self.nodes.len();
        let (seed, seeds) = (self.nodes[of].seed, self.nodes[of].seeds.clone());
        self.add(i, seed);
        self.twin = Some(self.nodes[i].id);
        self.nodes[i].seeds = seeds;
        i
    }

    /// Every host has the addresses of the first `n` as seeds.
    pub(crate) fn seed_with_first(&mut self, n: usize) {
        let seeds: Vec<SocketAddr> = self.nodes.iter().take(n).map(|node| node.address).collect();
        self.nodes.iter_mut().for_each(|node| node.seeds = seeds.clone());
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(crate) fn boot(&mut self, i: usize) {
        let now = self.instant();
        let node = &mut self.nodes[i];
        node.incarnation += 1 + self.now.as_millis() as u64;
        let mut config =
            MeshConfig::new(IdentityKey::from_seed(&node.seed), node.incarnation, &format!("host-{i}"));
        config.addresses = vec![node.address];
        config.seeds = node.seeds.clone();
        config.timers = self.timers.clone();
        config.signature_cache = Some(self.cache.clone());
        let mut mesh = Mesh::new(config, now, &mut self.rng);
        for (network, endpoints) in &node.networks {
            mesh.join_network(*network, Membership { overlay_mtu: 1418 });
            for endpoint in endpoints.values() {
                mesh.set_local_endpoint(*network, endpoint.clone()).unwrap();
            }
        }
        node.mesh = Some(mesh);
        node.newest.clear();
        node.wake = None;
        self.drain(i);
    }

    /// Starts every host within `spread`.
    pub(crate) fn boot_all(&mut self, spread: Duration) {
        let mut order: Vec<(Duration, usize)> =
            (0..self.nodes.len()).map(|i| (spread.mul_f64(self.rng.random()), i)).collect();
        order.sort_unstable();
        let begin = self.now;
        for (after, i) in order {
            self.run_to(begin + after);
            self.boot(i);
        }
    }

    pub(crate) fn kill(&mut self, i: usize) {
        self.nodes[i].mesh = None;
    }

    pub(crate) fn join(&mut self, i: usize, network: NetworkId) {
        self.nodes[i].networks.entry(network).or_default();
        if let Some(mesh) = &mut self.nodes[i].mesh {
            mesh.join_network(network, Membership { overlay_mtu: 1418 });
            self.drain(i);
        }
    }

    pub(crate) fn leave(&mut self, i: usize, network: NetworkId) {
        self.nodes[i].networks.remove(&network);
        self.nodes[i].newest.retain(|(of, ..), _| *of != network);
        if let Some(mesh) = &mut self.nodes[i].mesh {
            mesh.leave_network(network);
            self.drain(i);
        }
    }

    /// Sets endpoint `n` of host `i` to a new state.
    pub(crate) fn put(&mut self, i: usize, network: NetworkId, n: u16) -> EndpointTag {
        self.n_states += 1;
        let mut tag = [0; 16];
        tag[..8].copy_from_slice(&(i as u64).to_be_bytes());
        tag[8..10].copy_from_slice(&n.to_be_bytes());
        tag[10..].copy_from_slice(&network.get().to_be_bytes()[2..]);
        let tag = EndpointTag(tag);
        let [a, b] = n.to_be_bytes();
        let [c, d] = (i as u16).to_be_bytes();
        let endpoint = Endpoint {
            tag,
            mac: Mac([2, 0, c, d, a, b]),
            addresses: vec![IpAddr::from([10, c, d, b])],
            name: Some(format!("{}", self.n_states)),
        };
        self.set(i, network, endpoint);
        tag
    }

    pub(crate) fn set(&mut self, i: usize, network: NetworkId, endpoint: Endpoint) {
        let state = endpoint.name.as_ref().map_or(0, |name| name.parse().unwrap());
        let node = &mut self.nodes[i];
        self.history.insert((node.id, network, endpoint.tag, state));
        node.networks.get_mut(&network).expect("joined").insert(endpoint.tag, endpoint.clone());
        if let Some(mesh) = &mut node.mesh {
            mesh.set_local_endpoint(network, endpoint).unwrap();
            self.drain(i);
        }
    }

    pub(crate) fn remove(&mut self, i: usize, network: NetworkId, tag: EndpointTag) {
        self.nodes[i].networks.get_mut(&network).expect("joined").remove(&tag);
        if let Some(mesh) = &mut self.nodes[i].mesh {
            assert!(mesh.remove_local_endpoint(network, tag));
            self.drain(i);
        }
    }

    pub(crate) fn with<R>(&mut self, i: usize, act: impl FnOnce(&mut Mesh, Instant) -> R) -> R {
        let now = self.instant();
        let result = act(self.nodes[i].mesh.as_mut().expect("runs"), now);
        self.drain(i);
        result
    }

    pub(crate) fn mesh(&self, i: usize) -> &Mesh {
        self.nodes[i].mesh.as_ref().expect("runs")
    }

    /// Runs until `until`.
    pub(crate) fn run_to(&mut self, until: Duration) {
        while self.queue.peek().is_some_and(|Reverse(item)| item.at <= until) {
            let Some(Reverse(item)) = self.queue.pop() else { break };
            self.now = item.at;
            let now = self.instant();
            match item.what {
                What::Deliver { to, from, bytes } => {
                    let id = self.nodes[from].id;
                    if self.nodes[to].side != self.nodes[from].side {
                        continue;
                    }
                    if self.twin == Some(id) {
                        self.nodes[to].heard.insert(id, from);
                    }
                    let Some(mesh) = &mut self.nodes[to].mesh else { continue };
                    mesh.handle_message(id, &bytes, now);
                    self.drain(to);
                }
                What::Wake(i) => {
                    if self.nodes[i].wake != Some(self.now) {
                        continue;
                    }
                    self.nodes[i].wake = None;
                    let Some(mesh) = &mut self.nodes[i].mesh else { continue };
                    mesh.handle_timeout(now);
                    self.drain(i);
                }
            }
        }
        self.now = until;
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_to(self.now + time);
    }

    /// Runs until `done`, looking every 50 ms; how long it took.
    ///
    /// # Panics
    /// When `limit` passes first.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        while !done(self) {
            assert!(self.now - begin < limit, "{what}: not within {limit:?} (seed {})", self.seed);
            self.run_for(Duration::from_millis(50));
        }
        self.now - begin
    }

    fn push(&mut self, at: Duration, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Item { at, order: self.order, what }));
    }

    fn drain(&mut self, i: usize) {
        let Some(mut mesh) = self.nodes[i].mesh.take() else { return };
        while let Some((to, bytes)) = mesh.poll_transmit() {
            assert!(bytes.len() <= weft_mesh::MAX_MESSAGE_LEN, "{} bytes", bytes.len());
            self.nodes[i].n_bytes += bytes.len() as u64;
            self.nodes[i].n_messages += 1;
            let to = match to {
                Target::Peer(peer) => {
                    self.nodes[i].heard.get(&peer).or_else(|| self.by_id.get(&peer)).copied()
                }
                Target::Address(address) => self.by_address.get(&address).copied(),
            };
            let Some(to) = to else { continue };
            self.transmit(i, to, bytes);
        }
        while let Some(event) = mesh.poll_event() {
            self.check(i, &event);
        }
        if let Some((at, _)) = mesh.poll_timeout() {
            let at = at.saturating_duration_since(self.start).max(self.now);
            if self.nodes[i].wake != Some(at) {
                self.nodes[i].wake = Some(at);
                self.push(at, What::Wake(i));
            }
        }
        self.nodes[i].mesh = Some(mesh);
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if self.traitor.is_some() {
            self.betray(&bytes);
        }
        if self.rng.random_bool(self.loss) || self.nodes[from].side != self.nodes[to].side {
            return;
        }
        let delay = Duration::from_micros(self.rng.random_range(300..20_000));
        self.push(self.now + delay, What::Deliver { to, from, bytes });
    }

    /// The traitor keeps copies and sends them, some changed, in its own name.
    fn betray(&mut self, bytes: &[u8]) {
        let Some(traitor) = self.traitor else { return };
        if self.captured.len() < 5000 {
            self.captured.push(bytes.to_vec());
        }
        if !self.rng.random_bool(0.2) || self.captured.is_empty() {
            return;
        }
        let mut bytes = self.captured[self.rng.random_range(0..self.captured.len())].clone();
        for _ in 0..self.rng.random_range(0..3) {
            let at = self.rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << self.rng.random_range(0..8);
        }
        let to = self.rng.random_range(0..self.nodes.len());
        let at = self.now + Duration::from_millis(self.rng.random_range(1..30));
        self.push(at, What::Deliver { to, from: traitor, bytes });
    }

    /// Safety: whatever a mesh takes for true, its owner said, and nothing older comes after something newer.
    fn check(&mut self, i: usize, event: &Event) {
        match event {
            Event::EndpointAdded { network, peer, endpoint } => {
                let state: u64 = endpoint.name.as_ref().map_or(0, |name| name.parse().unwrap());
                assert!(
                    self.history.contains(&(*peer, *network, endpoint.tag, state)),
                    "host {i} took {endpoint:?} of {peer}, which never said so (seed {})",
                    self.seed
                );
                assert!(
                    self.nodes[i].networks.contains_key(network),
                    "host {i} learnt of {network}, which it is not in (seed {})",
                    self.seed
                );
                let newest = self.nodes[i].newest.entry((*network, *peer, endpoint.tag)).or_insert(0);
                assert!(*newest <= state, "host {i}: {state} of {peer} after {newest} (seed {})", self.seed);
                *newest = state;
            }
            Event::PeerUp { peer } => {
                assert!(self.by_id.contains_key(peer), "host {i} believes in {peer} (seed {})", self.seed);
            }
            Event::PeerDown { peer } => {
                let lives = self.by_id.get(peer).is_some_and(|other| self.nodes[*other].mesh.is_some());
                if self.judge_downs && lives {
                    self.n_false_downs += 1;
                }
            }
            Event::SameKeyTwice { peer, .. } => self.nodes[i].twins.push(*peer),
            Event::DuplicateAddress { .. } => self.nodes[i].n_duplicates += 1,
            _ => {}
        }
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Node, &Mesh)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(i, node)| Some((i, node, node.mesh.as_ref()?)))
    }

    /// Whether every host sees exactly those alive that run.
    pub(crate) fn all_see_all(&self) -> bool {
        let running: BTreeSet<PeerId> = self.running().map(|(_, node, _)| node.id).collect();
        self.running().all(|(_, _, mesh)| {
            mesh.alive().len() + 1 == running.len() && mesh.alive().all(|peer| running.contains(&peer))
        })
    }

    /// How many hosts do not see exactly the members and, where they are members, endpoints that there are.
    pub(crate) fn n_wrong_records(&self) -> usize {
        let mut members: BTreeMap<NetworkId, BTreeSet<PeerId>> = BTreeMap::new();
        let mut endpoints: BTreeMap<NetworkId, BTreeMap<(PeerId, EndpointTag), &Endpoint>> = BTreeMap::new();
        for (_, node, _) in self.running() {
            for (network, own) in &node.networks {
                members.entry(*network).or_default().insert(node.id);
                let all = endpoints.entry(*network).or_default();
                all.extend(own.iter().map(|(tag, endpoint)| ((node.id, *tag), endpoint)));
            }
        }
        let wrong = self.running().filter(|(_, node, mesh)| {
            members.iter().any(|(network, peers)| {
                !mesh.members(*network).map(|(peer, _)| peer).eq(peers.iter().copied())
                    || (node.networks.contains_key(network)
                        && !mesh
                            .endpoints(*network)
                            .map(|(peer, endpoint)| ((peer, endpoint.tag), &**endpoint))
                            .eq(endpoints[network].iter().map(|(key, endpoint)| (*key, *endpoint))))
            })
        });
        wrong.count()
    }

    /// Bytes and messages that a host sends a second, on average over `time`.
    pub(crate) fn rate(&mut self, time: Duration) -> Rate {
        let before: Vec<(u64, u64)> = self.nodes.iter().map(|node| (node.n_bytes, node.n_messages)).collect();
        self.run_for(time);
        let n = self.running().count() as f64 * time.as_secs_f64();
        let sent = self.nodes.iter().zip(&before);
        let each: Vec<(u64, u64)> =
            sent.map(|(node, (b, m))| (node.n_bytes - b, node.n_messages - m)).collect();
        let (bytes, messages) = each.iter().fold((0, 0), |(b, m), (x, y)| (b + x, m + y));
        let most = each.iter().map(|(b, m)| b + m * OVERHEAD).max().unwrap_or(0) as f64;
        Rate {
            payload: bytes as f64 / n,
            wire: (bytes + messages * OVERHEAD) as f64 / n,
            messages: messages as f64 / n,
            most: most / time.as_secs_f64(),
        }
    }
}

/// What a host sends a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Bytes of messages.
    pub(crate) payload: f64,
    /// Bytes with all headers of the underlay's datagrams.
    pub(crate) wire: f64,
    pub(crate) messages: f64,
    /// Bytes with headers of the busiest host.
    pub(crate) most: f64,
}
