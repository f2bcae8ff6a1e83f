//! The mesh, with a member that lies.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use weft_mesh::{
    Endpoint, EndpointTag, IdentityKey, KnownPeer, KvKey, MAX_MESSAGE_LEN, Membership, Mesh, MeshConfig,
    Scope, Target,
};
use weft_wire::{Mac, NetworkId, PeerId};

use crate::bytes::Bytes;

const NETWORK: NetworkId = NetworkId::from_u48(0x7777);
const MAX_STEPS: usize = 32;
/// Messages that one message or wake-up may make a mesh of three send.
const MAX_ANSWERS: usize = 64;

/// Whose words are under attack, whose records are, and who lies.
const HONEST: usize = 0;
const OWNER: usize = 1;
const LIAR: usize = 2;

#[derive(Debug, Arbitrary)]
enum Step {
    /// The liar says anything.
    Raw {
        to_owner: bool,
        bytes: Bytes,
    },
    /// The liar says what another, or itself, has said before, with bits changed.
    Again {
        to_owner: bool,
        nth: u16,
        changes: Vec<(u16, u8)>,
        cut: Option<u16>,
    },
    /// The liar does what it may do.
    Join,
    Leave,
    Claim {
        tag: u8,
        mac: [u8; 6],
        address: [u8; 4],
    },
    Put {
        key: u8,
        value: Bytes,
    },
    Accuse,
    /// Time passes.
    Run {
        ms: u16,
    },
}

struct Room {
    now: Instant,
    meshes: Vec<Mesh>,
    heard: Vec<Vec<u8>>,
    /// Whether the liar was ever let into the network.
    liar_joined: bool,
}

fn key(n: usize) -> IdentityKey {
    IdentityKey::from_seed(&[n as u8 + 1; 32])
}

fn endpoint(n: u8, mac: [u8; 6], address: [u8; 4]) -> Endpoint {
    Endpoint {
        tag: EndpointTag([n; 16]),
        mac: Mac(mac),
        addresses: vec![address.into()],
        name: Some("canary".to_owned()),
    }
}

fn owned() -> Endpoint {
    endpoint(1, [2, 0x42, 0xde, 0xad, 0xbe, 1], [10, 9, 8, 1])
}

impl Room {
    fn new() -> Self {
        let now = Instant::now();
        let mut rng = SmallRng::seed_from_u64(1);
        let known: Vec<_> =
            (0..3).map(|n| KnownPeer { peer: key(n).peer_id(), addresses: Vec::new() }).collect();
        let mesh = |n: usize| {
            let mut config = MeshConfig::new(key(n), 1, "host");
            config.known_peers = known.clone();
            Mesh::new(config, now, &mut rng)
        };
        let mut room =
            Self { now, meshes: (0..3).map(mesh).collect(), heard: Vec::new(), liar_joined: false };
        for n in [HONEST, OWNER] {
            room.meshes[n].join_network(NETWORK, Membership { overlay_mtu: 1418 });
        }
        room.meshes[OWNER].set_local_endpoint(NETWORK, owned()).expect("the endpoint is within limits");
        // By then all know all, and the endpoint has come.
        room.run(Duration::from_millis(1500));
        assert_eq!(room.meshes[HONEST].endpoints(NETWORK).count(), 1);
        room
    }

    /// Takes what a mesh sends, and looks at it.
    fn sent(&mut self, from: usize) -> Vec<(PeerId, Vec<u8>)> {
        let liar = self.meshes[LIAR].id();
        let mut sent = Vec::new();
        while let Some((to, bytes)) = self.meshes[from].poll_transmit() {
            assert!(bytes.len() <= MAX_MESSAGE_LEN, "a message of {} bytes", bytes.len());
            if let Target::Peer(to) = to {
                let leaks = to == liar && !self.liar_joined && bytes.windows(6).any(|six| six == b"canary");
                assert!(from == LIAR || !leaks, "a network's record goes to one that is not in it");
                sent.push((to, bytes));
            }
        }
        while self.meshes[from].poll_event().is_some() {}
        sent
    }

    /// Delivers until nobody says anything more.
    fn deliver(&mut self) {
        for _ in 0..50 {
            let mut n_sent = 0;
            for from in 0..self.meshes.len() {
                let me = self.meshes[from].id();
                let sent = self.sent(from);
                assert!(sent.len() <= MAX_ANSWERS * 4, "{} messages at once", sent.len());
                n_sent += sent.len();
                for (to, bytes) in sent {
                    if let Some(mesh) = self.meshes.iter_mut().find(|mesh| mesh.id() == to) {
                        mesh.handle_message(me, &bytes, self.now);
                    }
                    self.heard.push(bytes);
                }
            }
            if n_sent == 0 {
                return;
            }
        }
        panic!("the peers talk without end");
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.deliver();
        while let Some(due) = self.meshes.iter().filter_map(|mesh| Some(mesh.poll_timeout()?.0)).min()
            && due <= until
        {
            self.now = self.now.max(due) + Duration::from_millis(1);
            for mesh in &mut self.meshes {
                mesh.handle_timeout(self.now);
            }
            self.deliver();
        }
        self.now = self.now.max(until);
    }

    fn say(&mut self, to: usize, bytes: &[u8]) {
        let (liar, now) = (self.meshes[LIAR].id(), self.now);
        self.meshes[to].handle_message(liar, bytes, now);
        let me = self.meshes[to].id();
        let sent = self.sent(to);
        assert!(sent.len() <= MAX_ANSWERS, "{} answers to one message", sent.len());
        for (other, bytes) in sent {
            if let Some(mesh) = self.meshes.iter_mut().find(|mesh| mesh.id() == other) {
                mesh.handle_message(me, &bytes, now);
            }
            self.heard.push(bytes);
        }
    }

    fn step(&mut self, step: Step) {
        let target = |to_owner| if to_owner { OWNER } else { HONEST };
        match step {
            Step::Raw { to_owner, bytes } => self.say(target(to_owner), &bytes),
            Step::Again { to_owner, nth, changes, cut } => {
                let nth = usize::from(nth) % self.heard.len();
                let mut bytes = self.heard[nth].clone();
                for (at, flip) in changes {
                    let at = usize::from(at) % bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= flip;
                    }
                }
                bytes.truncate(cut.map_or(usize::MAX, usize::from));
                self.say(target(to_owner), &bytes);
            }
            Step::Join => {
                self.liar_joined = true;
                self.meshes[LIAR].join_network(NETWORK, Membership { overlay_mtu: 1418 });
            }
            Step::Leave => self.meshes[LIAR].leave_network(NETWORK),
            Step::Claim { tag, mac, address } => {
                let _ = self.meshes[LIAR].set_local_endpoint(NETWORK, endpoint(tag, mac, address));
            }
            Step::Put { key, value } => {
                let _ = self.meshes[LIAR].put(Scope::Global, KvKey(vec![key]), value.into());
            }
            Step::Accuse => {
                let owner = self.meshes[OWNER].id();
                self.meshes[LIAR].peer_unreachable(owner);
            }
            Step::Run { ms } => self.run(Duration::from_millis((ms % 3000).into())),
        }
    }

    fn check(&self) {
        let [honest, owner, liar] = [HONEST, OWNER, LIAR].map(|n| self.meshes[n].id());
        for n in [HONEST, OWNER] {
            let mesh = &self.meshes[n];
            for (host, at) in mesh.endpoints(NETWORK) {
                assert!(host != honest, "{at:?} is nobody's");
                assert!(host != owner || **at == owned(), "{at:?} is not its owner's word");
                assert!(host != liar || self.liar_joined, "{at:?} of one that is not in the network");
                assert!(!at.mac.is_group());
            }
            assert!(self.liar_joined || !mesh.is_member(NETWORK, liar));
            let kept = mesh.records(Scope::Global, b"").chain(mesh.records(Scope::Network(NETWORK), b""));
            kept.for_each(|(peer, key, _)| assert_eq!(peer, liar, "{key:?} is not its owner's word"));
        }
        // The owner itself never takes another's word for its own endpoint.
        assert!(self.meshes[OWNER].endpoints(NETWORK).any(|(host, at)| host == owner && **at == owned()));
    }
}

/// Messages between meshes.
pub fn gossip(bytes: &[u8]) {
    let Ok(steps) = Vec::<Step>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut room = Room::new();
    for step in steps.into_iter().take(MAX_STEPS) {
        room.step(step);
        room.check();
    }
    room.run(Duration::from_millis(500));
    room.check();
}
