//! What the layers of an image add up to, while they come and while they wait for those below them.

use super::{Limits, error::LayerError, layer::LayerEntry};
use crate::rootfs;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of all layers of an image, and the bytes of their names and attributes.
///
/// Several layers come at once, and one that does not come keeps those above it in memory: without a common count, each
/// would be allowed what all may take.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: AtomicU64,
    metadata: AtomicU64,
}

impl Tally {
    /// Counts an entry before it is kept, and refuses the one that is too much.
    pub(super) fn add(&self, entry: &LayerEntry, limits: Limits) -> Result<(), LayerError> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= limits.max_entries {
            return Err(rootfs::Error::TooManyEntries(limits.max_entries).into());
        }
        let more = entry.weight();
        if self.metadata.fetch_add(more, Ordering::Relaxed).saturating_add(more) > limits.max_metadata {
            return Err(rootfs::Error::TooMuchMetadata(limits.max_metadata).into());
        }
        Ok(())
    }
}
