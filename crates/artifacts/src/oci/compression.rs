//! Detection of compression by magic numbers. The declared media type is not used: Docker's archives have none, and the
//! digest proves the outcome.

/// Magic number of gzip (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Magic number of a zstd frame (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Magic number of a skippable zstd frame, of which the low half of the first byte may have any value. Parallel
/// compressors write such a frame in front of each other frame.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// Compression of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    /// Not compressed.
    None,
}

impl Compression {
    /// Detects the compression from the first four bytes.
    pub(super) fn detect(magic: [u8; 4]) -> Self {
        let [first, rest @ ..] = magic;
        match magic {
            _ if magic[..2] == GZIP => Self::Gzip,
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
    fn magic_numbers() {
        for (magic, compression) in [
            ([0x1f, 0x8b, 8, 0], Compression::Gzip),
            (ZSTD, Compression::Zstd),
            ([0x50, 0x2a, 0x4d, 0x18], Compression::Zstd),
            ([0x5f, 0x2a, 0x4d, 0x18], Compression::Zstd),
            ([0x60, 0x2a, 0x4d, 0x18], Compression::None),
            ([0x50, 0x2a, 0x4d, 0x19], Compression::None),
            (*b"etc/", Compression::None),
            ([0; 4], Compression::None),
        ] {
            assert_eq!(Compression::detect(magic), compression, "{magic:x?}");
        }
    }
}
