//! Parses attributes. A malformed attribute ends the list; nothing is read past the end of the bytes.

/// Attribute of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type, without the flags stored beside it.
    pub kind: u16,
    /// Payload.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The payload as text, up to its NUL.
    pub fn as_text(&self) -> Option<&'a str> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).ok()
    }

    /// The payload as a number in the host's byte order.
    pub fn as_u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value.try_into().ok()?))
    }
}

/// Iterates over the attributes in `bytes`.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1, ..] = *bytes else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        let kind = u16::from_ne_bytes([k0, k1]) & 0x3fff;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_ends_the_list(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let total: usize = attributes(&bytes).map(|attribute| attribute.value.len() + 4).sum();
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn a_length_that_is_too_short_is_an_end() {
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1, 0, 9]).count(), 0);
    }
}
