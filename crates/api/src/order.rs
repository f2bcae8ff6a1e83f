//! What an operator tells a daemon to do.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// An order, `POST /v1/orders`: `{"order": "judge", "peer": "host-b", "judgement": "revoked"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Order {
    /// Accept another cluster secret beside the present one, first step of a rotation. Without one, make it.
    AddSecret {
        /// The one of the other hosts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret>,
    },
    /// Begin handshakes with the added secret, second step.
    PreferSecret,
    /// Accept the old secret no longer, last step.
    DropSecret {
        /// Although a peer still needs it.
        #[serde(default)]
        force: bool,
    },
    /// Tell the secret that a rotation has added.
    AddedSecret,
    /// Decide about a peer, on all hosts.
    Judge {
        /// Its name, id, or the begin of its id.
        peer: String,
        /// What.
        judgement: Judgement,
    },
    /// Make a token by which a new host can join.
    MakeToken {
        /// Seconds for which it is good.
        lifetime_s: u64,
        /// How many hosts may use it.
        n_uses: u32,
    },
    /// Join the cluster of a host by its token.
    Join {
        /// The host, HOST or HOST:PORT.
        host: String,
        /// The token's text.
        token: Secret,
    },
    /// Contact a host from now on, also after a restart.
    Connect {
        /// The host, HOST or HOST:PORT.
        host: String,
    },
}

/// A decision about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Judgement {
    /// Shut it out everywhere.
    Revoked,
    /// Take that back.
    Allowed,
    /// Do not remember its name and addresses.
    Forgotten,
}

/// An order was carried out; what it changed is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAnswer {
    /// What was done, for people.
    pub text: String,
    /// A secret or token that was made or asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// Where other hosts reach this one, as far as it knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_named_in_json() {
        let json = r#"{"order": "judge", "peer": "b", "judgement": "revoked"}"#;
        let order = Order::Judge { peer: "b".to_owned(), judgement: Judgement::Revoked };
        assert_eq!(serde_json::from_str::<Order>(json).unwrap(), order);
        let misspelt = r#"{"order": "judge", "peer": "b", "judgment": "revoked"}"#;
        assert!(serde_json::from_str::<Order>(misspelt).is_err());
        let shown = format!("{:?}", Order::AddSecret { secret: Some(Secret::new("s3cret".to_owned())) });
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
