//! Cache of compressed layers by their digest, so that a layer shared by several images is downloaded once.
//!
//! Everything read from it is hashed again: a truncated or damaged cache costs a download and nothing else, so nothing
//! in it needs to be synced. A blob that is being read is locked, and pruning skips it; if it is removed all the same,
//! it stays readable for whoever has it open.

mod copies;

use super::{Digest, OciError};
use crate::{
    job::Cancel,
    publish::{PublishError, Shelf, StagedFile, is_at},
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    thread,
    time::Duration,
};

pub(super) use copies::{LayerCopies, LayerCopy};

/// Size of the chunks a blob is read in, in bytes.
const CHUNK: usize = 256 << 10;
/// Number of attempts to lock a blob that is locked by another process, and the pause between them.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Directory of blobs, named by their hexadecimal digest.
#[derive(Debug, Clone)]
pub struct BlobCache {
    shelf: Shelf,
}

/// Result of pruning, or of a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Number of removed blobs.
    pub blobs: u64,
    /// Bytes of the removed blobs.
    pub bytes: u64,
    /// Number of blobs skipped because a pull reads them.
    pub in_use: u64,
}

impl BlobCache {
    /// Opens `directory` (`cache/oci/blobs/sha256`), and creates it if it does not exist.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, OciError> {
        Ok(Self { shelf: Shelf::open(directory)? })
    }

    /// Returns the blob, if it exists with that size; pruning skips it while it is open.
    pub(super) fn get(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.shelf.path(&digest.hex()).ok()?).ok()?;
        // Pruning, even a dry run, locks each blob for a moment.
        let locked = (0..LOCK_ATTEMPTS).any(|attempt| {
            if attempt > 0 {
                thread::sleep(LOCK_PAUSE);
            }
            flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
        });
        if !locked {
            return None;
        }
        (file.metadata().ok()?.len() == size).then_some(file)
    }

    /// Stores a verified blob.
    fn keep(&self, blob: StagedFile, digest: &Digest) -> Result<(), PublishError> {
        self.shelf.publish_cached(blob, &digest.hex())?;
        Ok(())
    }

    /// Removes a blob that turned out to be wrong, unless another one has its name by now.
    pub(super) fn forget(&self, digest: &Digest, blob: &File) {
        if let Ok(path) = self.shelf.path(&digest.hex())
            && is_at(blob, &path)
        {
            let _ = fs::remove_file(path);
        }
    }

    /// Whether the stored blob is wrong or cannot be read; then it is removed.
    pub(super) fn is_damaged(&self, digest: &Digest, blob: &File, cancel: &Cancel) -> bool {
        let mut hash = Sha256::new();
        let (mut chunk, mut at) = (vec![0; CHUNK], 0);
        let damaged = loop {
            if cancel.is_cancelled() {
                return false;
            }
            match blob.read_at(&mut chunk, at) {
                Ok(0) => break Digest::ended(hash) != *digest,
                Ok(got) => {
                    hash.update(&chunk[..got]);
                    at += got as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        if damaged {
            self.forget(digest, blob);
        }
        damaged
    }

    /// Removes every blob that no pull reads; with `dry` only reports what it would remove.
    pub fn prune(&self, dry: bool, cancel: &Cancel) -> Result<Pruned, OciError> {
        let mut pruned = Pruned::default();
        let names = match self.shelf.names() {
            // The whole cache was deleted: there is nothing to prune.
            Err(PublishError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(pruned),
            names => names?,
        };
        for name in names {
            cancel.check()?;
            let Ok(path) = self.shelf.path(&name) else { continue };
            // A blob that another process removed meanwhile is gone, as intended.
            let Ok(file) = File::open(&path) else { continue };
            let bytes = file.metadata().map(|metadata| metadata.len()).unwrap_or_default();
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                pruned.in_use += 1;
                continue;
            }
            // The name may belong to another blob by now. It may also change before the removal: whoever reads the
            // removed blob keeps it open.
            if !is_at(&file, &path) {
                continue;
            }
            match if dry { Ok(()) } else { fs::remove_file(&path) } {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                removed => removed.map_err(OciError::io("remove", &path))?,
            }
            pruned.blobs += 1;
            pruned.bytes += bytes;
        }
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, time::Instant};

    /// Far longer than any test takes.
    const HANG: Duration = Duration::from_secs(60);

    fn cached(cache: &BlobCache, bytes: &[u8]) -> Digest {
        let mut staged = cache.shelf.stage_file().unwrap();
        staged.file_mut().write_all(bytes).unwrap();
        cache.keep(staged, &Digest::of(bytes)).unwrap();
        Digest::of(bytes)
    }

    /// Prunes until the result is as wanted: a process that another test forks holds the locks of this process until it
    /// calls `exec`.
    #[track_caller]
    fn prunes(cache: &BlobCache, dry: bool, wanted: Pruned) {
        let began = Instant::now();
        loop {
            let pruned = cache.prune(dry, &Cancel::default()).unwrap();
            if pruned == wanted {
                return;
            }
            assert!(began.elapsed() < HANG, "{pruned:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn pruning_passes_over_what_is_read_and_what_is_on_its_way() {
        let temp = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(temp.path().join("sha256")).unwrap();
        let (a, b) = (cached(&cache, b"a"), cached(&cache, b"bb"));
        let staged = cache.shelf.stage_file().unwrap();
        let reading = cache.get(&a, 1).unwrap();
        assert!(cache.get(&a, 2).is_none(), "a blob that was cut is none");
        prunes(&cache, true, Pruned { blobs: 1, bytes: 2, in_use: 1 });
        prunes(&cache, false, Pruned { blobs: 1, bytes: 2, in_use: 1 });
        assert!(cache.get(&a, 1).is_some() && cache.get(&b, 2).is_none() && staged.path().exists());
        drop(reading);
        prunes(&cache, false, Pruned { blobs: 1, bytes: 1, in_use: 0 });
    }

    #[test]
    fn what_came_anew_is_not_forgotten_for_what_was_damaged() {
        let temp = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(temp.path().join("sha256")).unwrap();
        let (digest, cancel) = (cached(&cache, b"a"), Cancel::default());
        fs::write(cache.shelf.path(&digest.hex()).unwrap(), "b").unwrap();
        let [one, two] = [(); 2].map(|()| cache.get(&digest, 1).unwrap());
        assert!(cache.is_damaged(&digest, &one, &cancel));
        assert!(cache.get(&digest, 1).is_none());
        cached(&cache, b"a");
        // Another pull that read the same bytes gets the same answer.
        assert!(cache.is_damaged(&digest, &two, &cancel));
        assert!(!cache.is_damaged(&digest, &cache.get(&digest, 1).unwrap(), &cancel));
    }

    #[test]
    fn several_who_prune_at_once_remove_each_blob_once() {
        let temp = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(temp.path().join("sha256")).unwrap();
        for number in 0..500_u32 {
            cached(&cache, &number.to_le_bytes());
        }
        let cancel = Cancel::default();
        let pruned: Vec<Pruned> = std::thread::scope(|scope| {
            let pruning: Vec<_> = (0..4).map(|_| scope.spawn(|| cache.prune(false, &cancel).unwrap())).collect();
            pruning.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // A pruner that finds a blob locked by another leaves it to that one.
        assert_eq!(pruned.iter().map(|pruned| pruned.blobs).sum::<u64>(), 500);
        assert_eq!(cache.shelf.names().unwrap(), Vec::<String>::new());
    }
}
