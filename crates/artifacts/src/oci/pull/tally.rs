//! What the layers that have come add up to, while they wait for those below them.

use super::super::{Limits, error::LayerError, layer::LayerEntry};
use crate::rootfs;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of all layers of an image, and the bytes of their names and attributes.
///
/// A layer that does not come keeps those above it in memory: without a common count, each would be allowed what all may
/// take.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: AtomicU64,
    metadata: AtomicU64,
}

impl Tally {
    /// Counts a layer, and refuses the one that is too much.
    pub(super) fn add(&self, layer: &[LayerEntry], limits: Limits) -> Result<(), LayerError> {
        let more = layer.len() as u64;
        if self.entries.fetch_add(more, Ordering::Relaxed).saturating_add(more) > limits.max_entries {
            return Err(rootfs::Error::TooManyEntries(limits.max_entries).into());
        }
        let more = layer.iter().map(LayerEntry::weight).sum();
        if self.metadata.fetch_add(more, Ordering::Relaxed).saturating_add(more) > limits.max_metadata {
            return Err(rootfs::Error::TooMuchMetadata(limits.max_metadata).into());
        }
        Ok(())
    }
}
