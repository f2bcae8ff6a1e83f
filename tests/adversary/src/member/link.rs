//! A session with one peer, and a mesh over it.

use std::{
    collections::{HashMap, VecDeque},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::rngs::ThreadRng;
use serde::{Deserialize, Serialize};
use weft_mesh::{IdentityKey, Mesh, MeshConfig, Target};
use weft_noise::{
    ClusterSecret, HandshakeConfig, HandshakeEvent, Handshakes, Identity, RecvSession, SendSession, Suite,
};
use weft_wire::{HEADER_LEN, Header, InnerHeader, InnerKind, Lane, MessageType, NetworkId, PeerId, TAG_LEN};

/// How often to look whether something is due.
const TURN: Duration = Duration::from_millis(10);
/// Received frames and messages kept for later.
const MAX_KEPT: usize = 4096;

/// What members say inside sessions beside frames, as the node encodes it.
#[derive(Debug, Serialize, Deserialize)]
enum Control<'a> {
    Mesh(#[serde(borrow)] &'a [u8]),
    Ping { nonce: u32, seen_at: Option<SocketAddr> },
    Pong { nonce: u32 },
    Refused(Refusal),
    Welcome { secret: &'a str },
}

/// Why a peer does not admit another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Refusal {
    NotAllowed,
    NameTaken { keeper: PeerId },
}

struct Session {
    peer: PeerId,
    send: Arc<SendSession>,
    recv: Arc<RecvSession>,
    /// Something was opened on it.
    is_heard: bool,
}

/// One peer of a cluster, and only one: everything goes to `target`.
pub(super) struct Link {
    socket: UdpSocket,
    target: SocketAddr,
    handshakes: Handshakes,
    pub(super) mesh: Mesh,
    sessions: HashMap<u32, Session>,
    /// The youngest session on which something was heard.
    current: Option<u32>,
    peer_name: Option<(PeerId, String)>,
    pub(super) refused: Option<Refusal>,
    pub(super) n_received: u64,
    /// Messages of the mesh, as they came.
    pub(super) mesh_messages: VecDeque<Vec<u8>>,
    dial_at: Instant,
    rng: ThreadRng,
}

impl Link {
    pub(super) fn new(
        target: SocketAddr,
        port: u16,
        seed: &[u8; 32],
        secret: ClusterSecret,
        suite: Suite,
        name: &str,
    ) -> Result<Self> {
        let (mut rng, now) = (rand::rng(), Instant::now());
        let key = IdentityKey::from_seed(seed);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(TURN))?;
        let handshakes = Handshakes::new(HandshakeConfig {
            identity: Identity::from_bytes(*key.x25519_secret()),
            secrets: vec![secret],
            suite,
            // The peer's hello: a struct of one text, its name.
            hello: postcard::to_allocvec(name)?,
            now,
        })?;
        let incarnation = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        let mut config = MeshConfig::new(key, u64::try_from(incarnation)?, name);
        config.seeds.push(target);
        let mesh = Mesh::new(config, now, &mut rng);
        Ok(Self {
            socket,
            target,
            handshakes,
            mesh,
            sessions: HashMap::new(),
            current: None,
            peer_name: None,
            refused: None,
            n_received: 0,
            mesh_messages: VecDeque::new(),
            dial_at: now,
            rng,
        })
    }

    /// Whether the peer has spoken on a session.
    pub(super) fn is_heard(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn peer_name(&self) -> Option<(String, String)> {
        self.peer_name.as_ref().map(|(id, name)| (id.to_string(), name.clone()))
    }

    /// Takes part for `lasting`, or until `done`.
    pub(super) fn run(&mut self, lasting: Duration, done: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + lasting;
        while Instant::now() < until && !done(self) {
            let now = Instant::now();
            if self.current.is_none() && now >= self.dial_at {
                self.dial_at = now + Duration::from_secs(6);
                self.handshakes.initiate(self.target, 1, now, &mut self.rng);
            }
            self.handshakes.handle_timeout(now, &mut self.rng);
            if self.mesh.poll_timeout().is_some_and(|(at, _)| at <= now) {
                self.mesh.handle_timeout(now);
            }
            self.drain()?;
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buf = [0; 1 << 16];
        let (len, from) = match self.socket.recv_from(&mut buf) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            // Of something sent before: nobody listens there.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.n_received += 1;
        let datagram = buf.get_mut(..len).context("what was received")?;
        let Some(header) = Header::parse(datagram) else { return Ok(()) };
        if header.message != MessageType::Data {
            // Whatever is wrong with it is not this program's affair.
            let _ = self.handshakes.handle_datagram(from, datagram, Instant::now(), &mut self.rng);
            return self.drain();
        }
        let number = header.receiver.session();
        let Some(session) = self.sessions.get_mut(&number) else { return Ok(()) };
        let recv = Arc::clone(&session.recv);
        let Ok(opened) =
            recv.lane(header.receiver.lane()).open(&header, datagram).map(|opened| opened.to_vec())
        else {
            return Ok(());
        };
        let peer = session.peer;
        if !std::mem::replace(&mut session.is_heard, true) {
            self.handshakes.confirmed(number);
            self.current = Some(number);
        }
        if let Some(inner) = InnerHeader::parse(&opened)
            && inner.kind == InnerKind::Control
            && let Some(message) = opened.get(weft_wire::INNER_HEADER_LEN..)
        {
            self.control(peer, message)?;
        }
        self.drain()
    }

    fn control(&mut self, peer: PeerId, message: &[u8]) -> Result<()> {
        match postcard::from_bytes::<Control<'_>>(message) {
            Ok(Control::Mesh(bytes)) => {
                if self.mesh_messages.len() < MAX_KEPT {
                    self.mesh_messages.push_back(bytes.to_vec());
                }
                self.mesh.handle_message(peer, bytes, Instant::now());
            }
            Ok(Control::Ping { nonce, .. }) => self.say(&Control::Pong { nonce })?,
            Ok(Control::Refused(reason)) => self.refused = Some(reason),
            Ok(Control::Pong { .. } | Control::Welcome { .. }) | Err(_) => {}
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(event) = self.handshakes.poll_event() {
            if let HandshakeEvent::Established(established) = event {
                let name = postcard::from_bytes::<String>(&established.hello).unwrap_or_default();
                self.peer_name = Some((established.peer, name));
                let session = Session {
                    peer: established.peer,
                    send: established.send,
                    recv: established.recv,
                    is_heard: false,
                };
                self.sessions.insert(established.session, session);
            }
        }
        while let Some((to, datagram)) = self.handshakes.poll_transmit() {
            self.socket.send_to(&datagram, to)?;
        }
        while let Some((target, message)) = self.mesh.poll_transmit() {
            let is_peer = match target {
                Target::Peer(id) => self.peer_name.as_ref().is_some_and(|(peer, _)| *peer == id),
                Target::Address(address) => address == self.target,
            };
            if is_peer {
                self.send_mesh(&message)?;
            }
        }
        while self.mesh.poll_event().is_some() {}
        Ok(())
    }

    fn say(&self, message: &Control<'_>) -> Result<()> {
        let bytes = postcard::to_allocvec(message)?;
        self.seal(Lane::CONTROL, InnerKind::Control, NetworkId::from_u48(0), &bytes)
    }

    /// Sends a message as the mesh's own, whatever it says.
    pub(super) fn send_mesh(&self, message: &[u8]) -> Result<()> {
        self.say(&Control::Mesh(message))
    }

    /// Seals and sends a frame, whatever is in it.
    pub(super) fn send_frame(&self, kind: InnerKind, network: NetworkId, frame: &[u8]) -> Result<()> {
        self.seal(Lane::of_worker(0), kind, network, frame)
    }

    /// Does nothing while there is no session.
    fn seal(&self, lane: Lane, kind: InnerKind, network: NetworkId, payload: &[u8]) -> Result<()> {
        let Some(session) = self.current.and_then(|number| self.sessions.get(&number)) else { return Ok(()) };
        let inner = InnerHeader { kind, ttl: 0, network }.to_bytes();
        let mut datagram = [&[0; HEADER_LEN][..], &inner, payload, &[0; TAG_LEN]].concat();
        let counter = session.send.reserve(lane, 1)?;
        session.send.seal(lane, counter, &mut datagram);
        self.socket.send_to(&datagram, self.target)?;
        Ok(())
    }
}
