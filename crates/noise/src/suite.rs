//! The cluster's choice of cipher.

use std::fmt;
use std::str::FromStr;

/// Cipher of handshakes and data, the same in the whole cluster.
///
/// It is part of the Noise protocol name, of the prologue, and of the key of mac1: peers with different suites do
/// not hear each other, so nobody in between can talk two peers into the weaker one.
///
/// | | rekey after (sum of all lanes) | hard stop (each lane) |
/// |---|---|---|
/// | AES-256-GCM | 2^27 datagrams | 2^28 datagrams |
/// | ChaCha20-Poly1305 | 2^60 datagrams | 2^60 datagrams |
///
/// 2^28 datagrams of 1500 bytes are 2^34.6 blocks, which keeps the advantage of someone who tells AES-GCM from random
/// below 2^-59 (RFC 9001, appendix B.1); ChaCha20-Poly1305 has no such limit below its counter (appendix B.2). Either
/// cipher's limit on forgeries (2^36 or more) is out of reach in the [`REJECT_AFTER`](crate::REJECT_AFTER) that a
/// session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// `aes-256-gcm`: the faster one where the processor has AES instructions.
    Aes256Gcm,
    /// `chacha20-poly1305`: fast everywhere.
    ChaCha20Poly1305,
}

/// The text is no suite's name. Nothing was changed; the operator wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a suite is \"aes-256-gcm\" or \"chacha20-poly1305\"")]
pub struct ParseSuiteError;

impl Suite {
    /// The faster suite on this processor. For the founder of a cluster; the others must take the founder's.
    #[must_use]
    pub fn auto() -> Self {
        #[cfg(target_arch = "x86_64")]
        let aes = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let aes = false;
        if aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// The name in configuration and in the prologue.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Name of the Noise protocol.
    #[must_use]
    pub const fn noise_name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "Noise_XXpsk3_25519_AESGCM_BLAKE2s",
            Self::ChaCha20Poly1305 => "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s",
        }
    }

    /// Datagrams sealed on all lanes together after which the session's initiator starts a rekey.
    #[must_use]
    pub const fn rekey_after_datagrams(self) -> u64 {
        match self {
            Self::Aes256Gcm => 1 << 27,
            Self::ChaCha20Poly1305 => 1 << 60,
        }
    }

    /// Datagrams of one lane's key after which [`SendSession::reserve`](crate::SendSession::reserve) refuses.
    #[must_use]
    pub const fn max_datagrams_per_lane(self) -> u64 {
        match self {
            Self::Aes256Gcm => 1 << 28,
            Self::ChaCha20Poly1305 => 1 << 60,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = ParseSuiteError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Aes256Gcm, Self::ChaCha20Poly1305].into_iter().find(|x| x.name() == s).ok_or(ParseSuiteError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
        assert_eq!("AES".parse::<Suite>(), Err(ParseSuiteError));
    }
}
