//! The cluster secret on its way to and from a daemon.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A cluster secret as text. Not printed by `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself: not for logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Sets the cluster secret of a host: `{"secret": "…"}`, or `{"generate": true}` for a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SecretRequestJson", into = "SecretRequestJson")]
pub enum SecretRequest {
    /// Take this one, which other hosts have.
    Join(Secret),
    /// Make one; the answer tells it, this once.
    Generate,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretRequestJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    generate: bool,
}

impl TryFrom<SecretRequestJson> for SecretRequest {
    type Error = &'static str;

    fn try_from(json: SecretRequestJson) -> Result<Self, Self::Error> {
        match (json.secret, json.generate) {
            (Some(secret), false) => Ok(Self::Join(secret)),
            (None, true) => Ok(Self::Generate),
            _ => Err("either a secret, or generate: true"),
        }
    }
}

impl From<SecretRequest> for SecretRequestJson {
    fn from(request: SecretRequest) -> Self {
        match request {
            SecretRequest::Join(secret) => Self { secret: Some(secret), generate: false },
            SecretRequest::Generate => Self { secret: None, generate: true },
        }
    }
}

/// The secret is set, and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretAnswer {
    /// A short hash by which people can compare secrets.
    pub fingerprint: String,
    /// The secret, when it was made now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_of_two() {
        for request in [SecretRequest::Generate, SecretRequest::Join(Secret::new("s3cret".to_owned()))] {
            let json = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<SecretRequest>(&json).unwrap(), request);
            assert!(!format!("{request:?}").contains("s3cret"));
        }
        for bad in
            ["{}", r#"{"generate": false}"#, r#"{"secret": "a", "generate": true}"#, r#"{"sekret": "a"}"#]
        {
            assert!(serde_json::from_str::<SecretRequest>(bad).is_err(), "{bad}");
        }
    }
}
