//! Builds a message: a header, a fixed part, attributes that may nest.

/// Flag: create the object if it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// Flag: fail if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Flag: replace an existing object.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Flag: list all objects.
pub const NLM_F_DUMP: u16 = 0x300;

/// Length of `struct nlmsghdr`, in bytes.
pub(crate) const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 1 << 15;

/// Request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// Request of a type, with further flags besides those every request has.
    pub fn new(kind: u16, flags: u16) -> Self {
        const NLM_F_REQUEST: u16 = 1;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self(bytes)
    }

    /// Appends the fixed part.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute of ours is short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a text with its NUL.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Appends a number in the host's byte order.
    #[must_use]
    pub fn number(self, kind: u16, number: u32) -> Self {
        self.put(kind, &number.to_ne_bytes())
    }

    /// Appends an attribute made of attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inside(self.put(kind | NLA_F_NESTED, &[]));
        let length = u16::try_from(self.0.len() - start).expect("a nest of ours is short");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Finishes the message with a sequence number and more flags.
    pub(crate) fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a message of ours is short");
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flags;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes;

    #[test]
    fn what_is_built_is_what_is_read() {
        let message = Message::new(16, NLM_F_CREATE)
            .fixed(&[1, 2])
            .text(3, "eth0")
            .nest(18, |inside| inside.text(1, "bridge").number(2, 7))
            .put(9, &[1, 2, 3]);
        let bytes = message.finish(5, 4);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(u16::from_ne_bytes([bytes[6], bytes[7]]), NLM_F_CREATE | 1 | 4);
        let parts: Vec<_> = attributes(&bytes[HEADER + 4..]).collect();
        assert_eq!(parts.iter().map(|part| part.kind).collect::<Vec<_>>(), [3, 18, 9]);
        assert_eq!((parts[0].as_text(), parts[2].value), (Some("eth0"), &[1, 2, 3][..]));
        let inside: Vec<_> = attributes(parts[1].value).collect();
        assert_eq!((inside[0].as_text(), inside[1].as_u32()), (Some("bridge"), Some(7)));
    }
}
