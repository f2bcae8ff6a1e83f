//! Byte strings inside structured inputs.

use std::ops::Deref;

use arbitrary::{Arbitrary, Result, Unstructured};

/// A length and so many bytes, one after the other. `Vec<u8>`'s own form has a flag before every byte, which hides the
/// bytes from a fuzzer's dictionaries and copies.
#[derive(Debug, Clone)]
pub(crate) struct Bytes(Vec<u8>);

impl<'a> Arbitrary<'a> for Bytes {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let len = usize::from(u.arbitrary::<u16>()? % 2048).min(u.len());
        Ok(Self(u.bytes(len)?.to_vec()))
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}
