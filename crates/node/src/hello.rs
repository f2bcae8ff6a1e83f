//! What peers say of themselves inside the handshake.

use serde::{Deserialize, Serialize};

/// Longest name of a peer, in bytes.
pub(crate) const MAX_NAME_LEN: usize = weft_mesh::MAX_NAME_LEN;

/// Sent encrypted in the second and third handshake message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The peer's name, by default the host's.
    pub(crate) name: String,
}

impl Hello {
    /// Cuts the name to its limit.
    pub(crate) fn new(name: &str) -> Self {
        let mut name = name.to_owned();
        while name.len() > MAX_NAME_LEN {
            name.pop();
        }
        Self { name }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// `None` when the bytes are no hello: then the peer is of another version or faulty.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let hello: Self = postcard::from_bytes(bytes).ok()?;
        let printable = hello.name.chars().all(|c| !c.is_control());
        (hello.name.len() <= MAX_NAME_LEN && printable).then_some(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_control_characters_refused() {
        let long = Hello::new(&"é".repeat(40));
        let read = Hello::from_bytes(&long.to_bytes()).unwrap();
        assert_eq!(read.name, "é".repeat(31));
        assert_eq!(Hello::from_bytes(&Hello { name: "a\x1b[2J".into() }.to_bytes()), None);
    }
}
