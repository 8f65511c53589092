//! How bytes are compressed, told by how they begin. What they are said to be is not asked: Docker's archives do not say it,
//! and the digest proves the outcome.

/// Gzip begins with these.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// A frame of zstd does.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// So does one that decoders pass over, with any low half of its first byte. Parallel compressors write one in front of each
/// other.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// What has to be done to read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    /// They are what they are.
    None,
}

impl Compression {
    /// That of what begins so.
    pub(super) fn detect(beginning: [u8; 4]) -> Self {
        let [first, rest @ ..] = beginning;
        match beginning {
            _ if beginning[..2] == GZIP => Self::Gzip,
            ZSTD => Self::Zstd,
            _ if [first & 0xf0, rest[0], rest[1], rest[2]] == SKIPPABLE => Self::Zstd,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        for (beginning, packing) in [
            ([0x1f, 0x8b, 8, 0], Compression::Gzip),
            (ZSTD, Compression::Zstd),
            ([0x50, 0x2a, 0x4d, 0x18], Compression::Zstd),
            ([0x5f, 0x2a, 0x4d, 0x18], Compression::Zstd),
            ([0x60, 0x2a, 0x4d, 0x18], Compression::None),
            ([0x50, 0x2a, 0x4d, 0x19], Compression::None),
            (*b"etc/", Compression::None),
            ([0; 4], Compression::None),
        ] {
            assert_eq!(Compression::detect(beginning), packing, "{beginning:x?}");
        }
    }
}
