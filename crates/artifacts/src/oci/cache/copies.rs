//! LayerCopies of layers that one pull makes for the cache.
//!
//! The image comes first: when the disk is full, all copies of the pull are given up, and it goes on in the room they
//! leave. LayerCopies that were there before may be of use to other pulls and stay.

use super::{BlobCache, Digest};
use crate::publish::{PublishError, StagedFile, is_full};
use rustix::fs::{fstat, stat};
use std::{
    fs::File,
    io::{self, Write as _},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// File of a copy that is being written; `None` once it was given up.
type Slot = Arc<Mutex<Option<StagedFile>>>;

/// LayerCopies of one pull.
#[derive(Debug)]
pub(in crate::oci) struct LayerCopies {
    cache: BlobCache,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    given_up: bool,
    growing: Vec<Weak<Mutex<Option<StagedFile>>>>,
    /// Those that are complete, with their sizes.
    kept: Vec<(Digest, u64)>,
}

/// LayerCopy of one layer, which grows with it.
#[derive(Debug)]
pub(in crate::oci) struct LayerCopy {
    copies: Arc<LayerCopies>,
    slot: Slot,
}

impl LayerCopies {
    pub(in crate::oci) fn new(cache: BlobCache) -> Arc<Self> {
        Arc::new(Self { cache, progress: Mutex::default() })
    }

    /// Begins a copy. Where the cache has no room there is none, and the layer is good without it.
    pub(in crate::oci) fn begin(self: &Arc<Self>) -> Result<LayerCopy, PublishError> {
        let mut progress = lock(&self.progress);
        let staged = match (!progress.given_up).then(|| self.cache.shelf.stage_file()) {
            Some(Err(PublishError::Io { source, .. })) if is_full(&source) => None,
            staged => staged.transpose()?,
        };
        let slot = Arc::new(Mutex::new(staged));
        progress.growing.push(Arc::downgrade(&slot));
        Ok(LayerCopy { copies: Arc::clone(self), slot })
    }

    /// Gives up all copies, and that there will be more, for an image on the same file system. Returns whether there
    /// was any.
    pub(in crate::oci) fn give_up_for(&self, image: &File) -> bool {
        let is_shared = match (fstat(image), stat(self.cache.shelf.directory())) {
            (Ok(image), Ok(cache)) => image.st_dev == cache.st_dev,
            _ => false,
        };
        if !is_shared {
            return false;
        }
        let mut progress = lock(&self.progress);
        progress.given_up = true;
        let growing = mem::take(&mut progress.growing).into_iter().filter_map(|slot| slot.upgrade());
        let mut count = growing.filter(|slot| lock(slot).take().is_some()).count();
        for (digest, size) in mem::take(&mut progress.kept) {
            if let Some(file) = self.cache.get(&digest, size) {
                self.cache.forget(&digest, &file);
                count += 1;
            }
        }
        if count > 0 {
            tracing::warn!(count, "the disk is full: layers of this image are not kept in the cache");
        }
        count > 0
    }
}

impl LayerCopy {
    /// Appends bytes. A copy that no longer fits is removed at once, so that its room is free again.
    pub(in crate::oci) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut slot = lock(&self.slot);
        let Some(staged) = &mut *slot else { return Ok(()) };
        match staged.file_mut().write_all(bytes) {
            Err(error) if is_full(&error) => {
                tracing::warn!("the cache of layers is full; the next image that has this one downloads it again");
                *slot = None;
                Ok(())
            }
            written => written,
        }
    }

    /// Puts the complete copy of a verified layer into the cache. Returns whether it is there.
    pub(in crate::oci) fn keep(self, digest: &Digest, size: u64) -> bool {
        let Some(staged) = lock(&self.slot).take() else { return false };
        let mut progress = lock(&self.copies.progress);
        if progress.given_up {
            return false;
        }
        let kept = self.copies.cache.keep(staged, digest);
        match &kept {
            Ok(()) => progress.kept.push((*digest, size)),
            // The layer is good; the next image with it downloads it again.
            Err(error) => {
                tracing::warn!(error = error as &dyn std::error::Error, "a layer cannot be kept in the cache");
            }
        }
        kept.is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_gone_at_once_and_nothing_else_goes() {
        let temp = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(temp.path().join("sha256")).unwrap();
        let files = || std::fs::read_dir(temp.path().join("sha256")).unwrap().count();
        let add = |copies: &Arc<LayerCopies>, bytes: &[u8]| {
            let copy = copies.begin().unwrap();
            copy.write(bytes).unwrap();
            copy.keep(&Digest::of(bytes), bytes.len() as u64)
        };
        assert!(add(&LayerCopies::new(cache.clone()), b"of another pull"));
        let copies = LayerCopies::new(cache.clone());
        assert!(add(&copies, b"complete"));
        let [growing, finished] = [(); 2].map(|()| copies.begin().unwrap());
        growing.write(b"half").unwrap();
        assert_eq!(files(), 4);
        let image = tempfile::tempfile_in(temp.path()).unwrap();
        assert!(!copies.give_up_for(&File::open("/proc/self/stat").unwrap()), "nothing is gained elsewhere");
        assert_eq!(files(), 4);
        assert!(copies.give_up_for(&image));
        assert_eq!(files(), 1, "that of the other pull");
        growing.write(b" and more").unwrap();
        assert!(!growing.keep(&Digest::of(b"half and more"), 13) && !finished.keep(&Digest::of(b""), 0));
        assert!(!add(&copies, b"later"));
        assert!(!copies.give_up_for(&image), "a second time nothing is gained");
        assert_eq!(files(), 1);
    }
}
