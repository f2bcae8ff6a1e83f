//! The cluster secret, and what of it an attacker with modified software computes by himself.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use blake2::{
    Blake2sMac,
    digest::KeyInit as _,
    digest::Mac as _,
    digest::consts::{U16, U32},
};
use weft_noise::{ClusterSecret, Suite};

/// Reads a secret as the daemon does.
pub(crate) fn read(file: &Path) -> Result<ClusterSecret> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(ClusterSecret::parse(&text)?)
}

/// Makes mac1, from what the protocol's description says of it.
pub(crate) struct Mac1([u8; 32]);

impl Mac1 {
    pub(crate) fn new(secret: &ClusterSecret, suite: Suite) -> Result<Self> {
        let text = secret.to_text();
        let bytes: Vec<u8> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
            .collect::<Result<_>>()?;
        let mut mac = <Blake2sMac<U32> as blake2::digest::KeyInit>::new_from_slice(&bytes)?;
        mac.update(b"weft mac1 v1 ");
        mac.update(suite.name().as_bytes());
        Ok(Self(mac.finalize().into_bytes().into()))
    }

    pub(crate) fn of(&self, message: &[u8]) -> Result<[u8; 16]> {
        let mut mac = <Blake2sMac<U16>>::new_from_slice(&self.0)?;
        mac.update(message);
        Ok(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use weft_noise::{HandshakeConfig, Handshakes, Identity};

    #[test]
    fn mac1_is_that_of_a_real_handshake() {
        let secret = ClusterSecret::new([9; 32]);
        let (mut rng, now) = (rand::rng(), Instant::now());
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let identity = Identity::generate(&mut rng);
            let secrets = vec![secret.clone()];
            let config = HandshakeConfig { identity, secrets, suite, hello: Vec::new(), now };
            let mut handshakes = Handshakes::new(config).unwrap();
            handshakes.initiate("192.0.2.1:6783".parse().unwrap(), 1, now, &mut rng);
            let (_, init) = handshakes.poll_transmit().unwrap();
            let (body, mac1) = init.split_last_chunk::<16>().unwrap();
            assert_eq!(Mac1::new(&secret, suite).unwrap().of(body).unwrap(), *mac1);
        }
    }
}
