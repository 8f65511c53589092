//! How much an image of somebody else's may be.

/// What an image may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Layers.
    pub max_layers: usize,
    /// Bytes of all layers, unpacked.
    pub max_unpacked: u64,
    /// How many times its size a layer may unpack to.
    pub max_ratio: u64,
    /// Unpacked bytes of a layer up to which that does not count: a log of zeros is no bomb.
    pub ratio_exempt: u64,
    /// Entries of all layers.
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
