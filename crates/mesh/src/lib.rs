//! Who is alive, who is on which network, and which endpoints are there: found out and kept in step between peers.
//!
//! A [`Mesh`] is one peer's part in it. It does no IO and reads no clock: the caller hands it messages and the time,
//! and takes messages, events and the next deadline from it. Messages travel over sessions that the caller keeps;
//! they may be lost, doubled or reordered, but the caller vouches for who sent them. A message is at most
//! [`MAX_MESSAGE_LEN`] bytes.
//!
//! Three parts work together:
//! - **Membership** is SWIM (by `foca`): random probes, indirect probes, suspicion, refutation.
//! - **Records** are what a peer says of itself: its name and addresses, its networks, its endpoints. Only the owner
//!   can write them: each is signed, and carries the key whose hash is the owner's id (see [`IdentityKey`]). Endpoint
//!   records are kept by and sent to the members of their network only.
//! - **Digests** over both are compared every few seconds with some other member, so what was lost on the way is
//!   found and fetched; the same comparing brings a newcomer everything.
//!
//! ```
//! # use std::time::Instant;
//! # use rand::SeedableRng;
//! # use weft_mesh::{Event, IdentityKey, Mesh, MeshConfig, Target};
//! let now = Instant::now();
//! let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
//! let mut a = Mesh::new(MeshConfig::new(IdentityKey::from_seed(&[1; 32]), 1, "a"), now, &mut rng);
//! let mut config = MeshConfig::new(IdentityKey::from_seed(&[2; 32]), 1, "b");
//! config.seeds.push("192.0.2.1:6783".parse().unwrap());
//! let mut b = Mesh::new(config, now, &mut rng);
//! b.handle_timeout(now);
//! while let Some((_, message)) = b.poll_transmit() {
//!     a.handle_message(b.id(), &message, now);
//! }
//! assert_eq!(a.poll_event(), Some(Event::Joined));
//! assert_eq!(a.poll_event(), Some(Event::PeerUp { peer: b.id() }));
//! ```

mod checks;
mod config;
mod directory;
mod event;
mod keys;
mod mesh;
mod message;
mod own;
mod record;
mod set;
mod store;
mod swim;
mod swim_id;
mod tree;

pub use checks::SignatureCache;
pub use config::{KnownPeer, MeshConfig, Timers};
pub use event::{Address, Counters, Event, Target};
pub use keys::{IdentityKey, peer_of_ed25519, x25519_from_ed25519};
pub use mesh::{EntryError, Mesh, PeerView};
pub use record::{
    Endpoint, EndpointTag, KvKey, MAX_ADDRESSES, MAX_ENDPOINT_ADDRESSES, MAX_KEY_LEN, MAX_NAME_LEN,
    MAX_VALUE_LEN, Membership, PeerInfo, Scope,
};

/// Longest message, in bytes. Sealed, and wrapped once more for a relay, it fits the smallest underlay MTU, 1280 bytes.
pub const MAX_MESSAGE_LEN: usize = 1120;
