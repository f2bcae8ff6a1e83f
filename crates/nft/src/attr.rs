//! Netlink messages and attributes (`struct nlmsghdr`, `struct nlattr`), written and read.

/// Header of a netlink message, bytes.
pub(crate) const HEADER_LEN: usize = 16;
/// Header of an attribute, bytes.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;

/// Rounds up to netlink's alignment.
fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Writes messages one after another. nf_tables integers are big-endian, lengths and headers are the host's.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    /// An attribute did not fit its 16-bit length.
    pub(crate) overflowed: bool,
}

impl Writer {
    /// Writes one message: `nlmsghdr` with a sequence number of zero, `nfgenmsg`, then what `body` writes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        body(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or_else(|_| {
            self.overflowed = true;
            0
        });
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
    }

    /// Writes an attribute whose value `body` writes.
    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        body(self);
        let len = u16::try_from(self.bytes.len() - start).unwrap_or_else(|_| {
            self.overflowed = true;
            0
        });
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, body);
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |w| w.bytes.extend(value));
    }

    pub(crate) fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn put_str(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |w| {
            w.bytes.extend(value.as_bytes());
            w.bytes.push(0);
        });
    }
}

/// One attribute that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn u32(self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }

    /// Text up to its NUL; `None` when it is not UTF-8.
    pub(crate) fn text(self) -> Option<&'a str> {
        let end = self.value.iter().position(|b| *b == 0).unwrap_or(self.value.len());
        std::str::from_utf8(self.value.get(..end)?).ok()
    }

    pub(crate) fn nested(self) -> Attributes<'a> {
        Attributes(self.value)
    }
}

/// The attributes in some bytes; ends at the first that is cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of that kind.
    pub(crate) fn find(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let len = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..len)?;
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// One message that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind `nfgenmsg`.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(4..).unwrap_or_default())
    }
}

/// The messages in one read; ends at the first that is cut off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = usize::try_from(u32::from_ne_bytes(*self.0.first_chunk()?)).ok()?;
        let body = self.0.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16::from_ne_bytes(*self.0.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*self.0.get(6..)?.first_chunk()?),
            sequence: u32::from_ne_bytes(*self.0.get(8..)?.first_chunk()?),
            body,
        };
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Attributes to write: a leaf or a nest.
    #[derive(Debug, Clone)]
    enum Tree {
        Leaf(u16, Vec<u8>),
        Nest(u16, Vec<Tree>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf =
            (0..100u16, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(k, v)| Tree::Leaf(k, v));
        leaf.prop_recursive(4, 40, 6, |inner| {
            (0..100u16, proptest::collection::vec(inner, 0..6)).prop_map(|(k, v)| Tree::Nest(k, v))
        })
    }

    fn write(writer: &mut Writer, trees: &[Tree]) {
        for tree in trees {
            match tree {
                Tree::Leaf(kind, value) => writer.put(*kind, value),
                Tree::Nest(kind, inner) => writer.nest(*kind, |w| write(w, inner)),
            }
        }
    }

    fn assert_same(read: Attributes<'_>, written: &[Tree]) {
        assert_eq!(read.count(), written.len());
        for (attribute, tree) in read.zip(written) {
            match tree {
                Tree::Leaf(kind, value) => assert_eq!((attribute.kind, attribute.value), (*kind, &value[..])),
                Tree::Nest(kind, inner) => {
                    assert_eq!(attribute.kind, *kind);
                    assert_same(attribute.nested(), inner);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bodies in proptest::collection::vec(proptest::collection::vec(tree(), 0..5), 1..4)) {
            let mut writer = Writer::default();
            for body in &bodies {
                writer.message(7, 1, 2, 3, |w| write(w, body));
            }
            prop_assert!(!writer.overflowed);
            let messages: Vec<_> = Messages(&writer.bytes).collect();
            prop_assert_eq!(messages.len(), bodies.len());
            for (message, body) in messages.iter().zip(&bodies) {
                prop_assert_eq!((message.kind, message.flags, message.sequence), (7, 1, 0));
                assert_same(message.attributes(), body);
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes) {
                for attribute in message.attributes() {
                    prop_assert!(attribute.nested().count() <= bytes.len());
                }
            }
        }
    }

    #[test]
    fn a_length_that_does_not_fit_is_noticed() {
        let mut writer = Writer::default();
        writer.nest(1, |w| (0..70).for_each(|_| w.put(1, &[0; 1000])));
        assert!(writer.overflowed);
    }
}
