//! Limits of an image from elsewhere.

/// Limits of an image from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of layers.
    pub max_layers: usize,
    /// Bytes of all layers, decompressed.
    pub max_unpacked: u64,
    /// Ratio of decompressed to compressed size of a layer.
    pub max_ratio: u64,
    /// Decompressed bytes of a layer up to which the ratio does not count: a log of zeros is no bomb.
    pub ratio_exempt: u64,
    /// Number of entries of all layers.
    pub max_entries: u64,
    /// Bytes of names, link targets and attributes of all layers.
    pub max_metadata: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_layers: 127,
            max_unpacked: 64 << 30,
            max_ratio: 1000,
            ratio_exempt: 256 << 20,
            max_entries: 4_000_000,
            max_metadata: 512 << 20,
        }
    }
}
