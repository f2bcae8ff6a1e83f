//! Handshake datagrams as bytes. The diagram is in the crate's documentation.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use weft_wire::{HEADER_LEN, Header, Lane, MessageType, ReceiverIndex};

use super::noise::{FINISH_MIN_LEN, INIT_LEN, RESPONSE_MIN_LEN};
use crate::MAX_HELLO_LEN;
use crate::mac::{MAC_LEN, mac16, verify16};
use crate::secret::SecretKeys;

/// mac1, mac2, or a cookie.
pub(super) type Mac = [u8; MAC_LEN];
pub(super) const COOKIE_NONCE_LEN: usize = 24;
const SEALED_COOKIE_LEN: usize = MAC_LEN + 16;

/// The index by which peers name `session` in handshakes.
pub(super) fn index_of(session: u32) -> ReceiverIndex {
    ReceiverIndex::new(session, Lane::of_worker(0))
}

/// An Init, Response or Finish of possible form; nothing about it is verified.
pub(super) struct Parsed<'a> {
    pub(super) receiver: u32,
    /// The sender's session number, not 0.
    pub(super) sender: u32,
    /// Header and Noise message: what mac2 covers.
    pub(super) body: &'a [u8],
    pub(super) noise: &'a [u8],
    mac2: &'a Mac,
    mac1: &'a Mac,
    before_mac1: &'a [u8],
}

impl<'a> Parsed<'a> {
    /// `None` when the length, an index or a reserved bit is not what the type demands.
    pub(super) fn new(header: &Header, datagram: &'a [u8]) -> Option<Self> {
        let (before_mac1, mac1) = datagram.split_last_chunk::<MAC_LEN>()?;
        let (body, mac2) = before_mac1.split_last_chunk::<MAC_LEN>()?;
        let noise = body.get(HEADER_LEN..)?;
        let hello_len = noise.len().checked_sub(match header.message {
            MessageType::Init => INIT_LEN,
            MessageType::Response => RESPONSE_MIN_LEN,
            MessageType::Finish => FINISH_MIN_LEN,
            _ => return None,
        })?;
        let is_init = header.message == MessageType::Init;
        let max_hello_len = if is_init { 0 } else { MAX_HELLO_LEN };
        let sender = ReceiverIndex((header.counter >> 32) as u32);
        let receiver = header.receiver.session();
        let indices_fit = header.receiver == index_of(receiver)
            && (receiver == 0) == is_init
            && header.counter == u64::from(index_of(sender.session()).0) << 32
            && sender.session() != 0;
        (hello_len <= max_hello_len && indices_fit).then_some(Self {
            receiver,
            sender: sender.session(),
            body,
            noise,
            mac2,
            mac1,
            before_mac1,
        })
    }

    /// Whether the sender knows the secret of `keys`.
    pub(super) fn verify_mac1(&self, keys: &SecretKeys) -> bool {
        verify16(&keys.mac1, self.before_mac1, self.mac1)
    }

    /// Whether the sender has received `cookie`.
    pub(super) fn verify_mac2(&self, cookie: &Mac) -> bool {
        verify16(cookie, self.body, self.mac2)
    }

    pub(super) fn has_mac2(&self) -> bool {
        *self.mac2 != [0; MAC_LEN]
    }

    /// Tells this datagram's content, apart from the MACs, from any other's.
    pub(super) fn digest(&self, keys: &SecretKeys) -> Mac {
        mac16(&keys.mac1, &[b"digest", self.body])
    }
}

/// A handshake datagram and its mac1.
pub(super) fn build(
    message: MessageType,
    receiver: u32,
    sender: u32,
    noise: &[u8],
    keys: &SecretKeys,
    cookie: Option<&Mac>,
) -> (Vec<u8>, Mac) {
    let counter = u64::from(index_of(sender).0) << 32;
    let header = Header { message, receiver: index_of(receiver), counter }.to_bytes();
    let mut datagram = Vec::with_capacity(HEADER_LEN + noise.len() + 2 * MAC_LEN);
    datagram.extend_from_slice(&header);
    datagram.extend_from_slice(noise);
    let mac2 = cookie.map_or([0; MAC_LEN], |cookie| mac16(cookie, &[&datagram]));
    datagram.extend_from_slice(&mac2);
    let mac1 = mac16(&keys.mac1, &[&datagram]);
    datagram.extend_from_slice(&mac1);
    (datagram, mac1)
}

fn cookie_aad(header: &[u8; HEADER_LEN], mac1: &Mac) -> [u8; HEADER_LEN + MAC_LEN] {
    let mut aad = [0; HEADER_LEN + MAC_LEN];
    aad[..HEADER_LEN].copy_from_slice(header);
    aad[HEADER_LEN..].copy_from_slice(mac1);
    aad
}

/// The Cookie datagram that answers the Init `parsed`.
pub(super) fn build_cookie(
    parsed: &Parsed<'_>,
    keys: &SecretKeys,
    cookie: &Mac,
    nonce: [u8; COOKIE_NONCE_LEN],
) -> Vec<u8> {
    let header =
        Header { message: MessageType::Cookie, receiver: index_of(parsed.sender), counter: 0 }.to_bytes();
    let mut text = *cookie;
    // The cipher refuses only texts of more than 256 GiB.
    let tag = XChaCha20Poly1305::new(&(*keys.cookie).into())
        .encrypt_inout_detached(&nonce.into(), &cookie_aad(&header, parsed.mac1), text.as_mut_slice().into())
        .expect("a cookie is not too long");
    [&header[..], &nonce, &text, &tag].concat()
}

/// The cookie in `datagram`, which answers a datagram with `mac1`; `None` when it does not.
pub(super) fn open_cookie(datagram: &[u8], keys: &SecretKeys, mac1: &Mac) -> Option<Mac> {
    let (header, rest) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let (nonce, sealed) = rest.split_first_chunk::<COOKIE_NONCE_LEN>()?;
    let sealed: &[u8; SEALED_COOKIE_LEN] = sealed.try_into().ok()?;
    let (cookie, tag) = sealed.split_first_chunk::<MAC_LEN>()?;
    let mut cookie = *cookie;
    let tag: [u8; 16] = tag.try_into().ok()?;
    XChaCha20Poly1305::new(&(*keys.cookie).into())
        .decrypt_inout_detached(
            &XNonce::from(*nonce),
            &cookie_aad(header, mac1),
            cookie.as_mut_slice().into(),
            &tag.into(),
        )
        .ok()?;
    Some(cookie)
}
