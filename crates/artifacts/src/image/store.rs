//! The images on this host.
//!
//! Decides when an image exists, is whole and is unchanged. Of two concurrent builds of the same thing the second waits
//! for the first and takes its result.

use super::{
    Corruption, DebianRecipe, ExternalFile, ImageError, ImageManifest, Source,
    draft::{Algorithm, Draft, ROOTFS, digest},
    manifest::FORMAT,
};
use crate::{
    job::{Cancel, Job},
    publish::{NameLock, Shelf},
    rootfs::{Limits, RootfsBuilder},
    timestamp::rfc3339,
};
use banger_proto::name::{ImageId, ImageName, KernelName};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Offset of the ext4 superblock in the file, and offsets of fields in it: magic number, number of blocks, block size.
const SUPERBLOCK: u64 = 1024;
const MAGIC: usize = 0x38;
const BLOCKS: usize = 0x04;
const LOG_BLOCK: usize = 0x18;

/// The directory of managed images.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(super) shelf: Shelf,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its manifest.
    pub manifest: ImageManifest,
    /// Its ext4 file, which nobody writes to.
    pub rootfs: PathBuf,
}

impl Image {
    /// Reads the image of that id from its directory. Nothing is written, and no store need be open.
    pub fn read(directory: &Path, id: &ImageId) -> Result<Self, ImageError> {
        let corrupt = |source: Corruption| ImageError::Corrupt { id: id.clone(), source };
        let manifest = ImageManifest::load(directory, id).map_err(|error| corrupt(error.into()))?;
        let rootfs = match &manifest.source {
            Source::Registered(file) => file.path.clone(),
            Source::Mmdebstrap(_) | Source::Oci(_) | Source::Bundle(_) | Source::Promoted(_) => directory.join(ROOTFS),
        };
        Ok(Self { manifest, rootfs })
    }

    /// Checks quickly, in microseconds, that its file is as it was made or registered.
    pub fn quick_check(&self, id: &ImageId) -> Result<(), ImageError> {
        let checked = match self.external() {
            Some(file) => {
                let changed = |source| Corruption::Changed { path: file.path.clone(), source };
                file.identity.check_unchanged(&file.path).map_err(changed)
            }
            None => check_superblock(self),
        };
        checked.map_err(|source| ImageError::Corrupt { id: id.clone(), source })
    }

    /// Whether banger owns the file.
    pub fn is_managed(&self) -> bool {
        self.external().is_none()
    }

    /// The user's file, if the image is one.
    pub fn external(&self) -> Option<&ExternalFile> {
        match &self.manifest.source {
            Source::Registered(file) => Some(file),
            Source::Mmdebstrap(_) | Source::Oci(_) | Source::Bundle(_) | Source::Promoted(_) => None,
        }
    }
}

/// Kernel that a registered image is to recommend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChoice {
    /// The one that the same image, registered before, recommends; none for a new image.
    Unchanged,
    /// None: its VMs boot the default kernel.
    Default,
    /// This one.
    Named(KernelName),
}

/// Depth of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Length and superblock, which detects truncated and replaced files in microseconds.
    Quick,
    /// The digest of every byte.
    Full,
}

impl ImageStore {
    /// Opens `directory`, creates it (mode 0700) when absent, and sweeps what killed builds left in it.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let store = Self { shelf: Shelf::open(directory)? };
        store.go_on_syncing()?;
        Ok(store)
    }

    /// Like [`Self::open`], without waiting until leftovers are removed.
    pub fn open_at_once(directory: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let store = Self { shelf: Shelf::open_at_once(directory)? };
        store.go_on_syncing()?;
        Ok(store)
    }

    /// Lists all images, sorted by id. One whose manifest cannot be used is left out, with a warning in the log.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self
            .ids()?
            .into_iter()
            .filter_map(|id| match self.get(&id) {
                Ok(image) => Some(image),
                Err(ImageError::NotFound { .. }) => None,
                Err(error) => {
                    tracing::warn!(%id, error = &error as &dyn std::error::Error, "an image cannot be used");
                    None
                }
            })
            .collect())
    }

    /// Lists the ids of all images, sorted, including damaged ones.
    pub fn ids(&self) -> Result<Vec<ImageId>, ImageError> {
        Ok(self.shelf.names()?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Returns the image of that id.
    pub fn get(&self, id: &ImageId) -> Result<Image, ImageError> {
        let directory = self.shelf.path(id.as_str())?;
        if !directory.is_dir() {
            return Err(ImageError::NotFound { id: id.clone() });
        }
        Image::read(&directory, id)
    }

    /// Builds a Debian image. `kernel` is what the image will recommend, because a person chose it.
    pub fn build_debian(
        &self,
        name: &ImageName,
        recipe: &DebianRecipe,
        kernel: Option<KernelName>,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let chosen = kernel.is_some();
        self.build(name, recipe, (kernel, chosen), job)
            .map_err(|error| ImageError::Build { name: name.clone(), source: Box::new(error.or_cancelled(job.cancel)) })
    }

    /// Returns the id the user's file at `path` would have as an image. Fails if it cannot be one.
    pub fn inspect(&self, path: &Path) -> Result<ImageId, ImageError> {
        let unfit = |source| ImageError::Register { path: path.to_owned(), source };
        let (file, facts) = ExternalFile::inspect(path).map_err(unfit)?;
        Ok(file.id(&facts))
    }

    /// Registers the user's file at `path` as an image without copying it. `kernel` is what the image will recommend.
    /// The same unchanged file registered again is the same image, and recommends that under all its names.
    pub fn register(
        &self,
        name: &ImageName,
        path: &Path,
        kernel: KernelChoice,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let unfit = |source| ImageError::Register { path: path.to_owned(), source };
        let (file, facts) = ExternalFile::inspect(path).map_err(unfit)?;
        let (id, digest) = (file.id(&facts), file.digest(&facts));
        let lock = self.lock(&id, job)?;
        let (kernel, kernel_chosen) = match kernel {
            KernelChoice::Unchanged => {
                let known = self.get(&id).ok().map(|image| image.manifest);
                known.map_or((None, false), |known| (known.kernel, known.kernel_chosen))
            }
            KernelChoice::Default => (None, false),
            KernelChoice::Named(kernel) => (Some(kernel), false),
        };
        let manifest = ImageManifest {
            version: FORMAT,
            id: id.clone(),
            name: name.clone(),
            digest: format!("sha256:{digest}"),
            size_bytes: file.identity.size,
            entries: facts.inodes,
            created_at: rfc3339(SystemTime::now()),
            os: None,
            arch: std::env::consts::ARCH.to_owned(),
            init: None,
            kernel,
            kernel_chosen,
            config: None,
            source: Source::Registered(file),
            also: Vec::new(),
        };
        let staging = self.shelf.stage()?;
        manifest.write(staging.path())?;
        // The recommended kernel may differ this time.
        self.shelf.publish(staging, &lock)?;
        self.get(&id)
    }

    /// Verifies that the image is what it was when it was made.
    pub fn verify(&self, id: &ImageId, depth: Depth, job: &Job<'_>) -> Result<Image, ImageError> {
        let image = self.get(id)?;
        image.quick_check(id)?;
        // The id of an unmanaged image identifies the file's state at registration; there is no content digest.
        if depth == Depth::Full && image.is_managed() {
            let corrupt = |source: Corruption| ImageError::Corrupt { id: id.clone(), source };
            let algorithm = Algorithm::of(&image.manifest.digest);
            let is = digest(&image.rootfs, algorithm, job).map_err(|error| match error {
                ImageError::Io { source, .. } => corrupt(source.into()),
                other => other,
            })?;
            let is = algorithm.name(&is);
            if is != image.manifest.digest {
                return Err(corrupt(Corruption::Digest { is }));
            }
        }
        Ok(image)
    }

    /// Deletes the image; returns whether it existed. The caller checks whether a VM uses it.
    pub fn delete(&self, id: &ImageId, cancel: &Cancel) -> Result<bool, ImageError> {
        self.delete_held(&self.shelf.lock(id.as_str(), cancel)?)
    }

    /// Locks an image for changes, waiting for other holders.
    pub fn lock(&self, id: &ImageId, job: &Job<'_>) -> Result<NameLock, ImageError> {
        Ok(self.shelf.lock_saying(id.as_str(), &format!("waiting for somebody else's work on image {id}"), job)?)
    }

    /// Locks an image; `None` if somebody else holds the lock.
    pub fn try_lock(&self, id: &ImageId) -> Result<Option<NameLock>, ImageError> {
        Ok(self.shelf.try_lock(id.as_str())?)
    }

    /// Like [`Self::delete`], for an image that is locked already.
    pub fn delete_held(&self, lock: &NameLock) -> Result<bool, ImageError> {
        Ok(self.shelf.remove(lock)?)
    }

    pub(super) fn build(
        &self,
        name: &ImageName,
        recipe: &DebianRecipe,
        (kernel, kernel_chosen): (Option<KernelName>, bool),
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let source = Source::Mmdebstrap(recipe.clone());
        let before: HashSet<ImageId> = self.list()?.into_iter().map(|image| image.manifest.id).collect();
        let lock =
            self.shelf.lock_saying(&build_lock(name, &source), "waiting for another build of this image", job)?;
        let made_meanwhile = self.list()?.into_iter().find(|Image { manifest, .. }| {
            !before.contains(&manifest.id) && manifest.name == *name && manifest.source == source
        });
        if let Some(image) = made_meanwhile {
            return Ok(image);
        }

        job.progress.phase("starting mmdebstrap");
        let staging = self.shelf.stage()?;
        let mut builder = RootfsBuilder::new(staging.path(), Limits::default(), job.cancel)?;
        recipe.bootstrap(&mut builder, staging.path(), job)?;
        let arch = std::env::consts::ARCH.to_owned();
        let (name, epoch) = (name.clone(), recipe.epoch);
        let draft = Draft { name, source, kernel, kernel_chosen, config: None, epoch, arch };
        let manifest = draft.write(builder, staging.path(), job)?;

        let image = self.publish(staging, &manifest, job);
        drop(lock);
        image
    }

    /// Sets the kernel that a locked image recommends.
    pub fn recommend_held(&self, id: &ImageId, lock: &NameLock, kernel: &KernelName) -> Result<Image, ImageError> {
        let mut image = self.get(id)?;
        image.manifest.kernel = Some(kernel.clone());
        image.manifest.kernel_chosen = false;
        image.manifest.rewrite(&self.shelf, lock)?;
        Ok(image)
    }

    /// Sets the kernel that a person chose for a locked image; no bundle or catalog changes it from now on.
    pub fn choose_held(&self, id: &ImageId, lock: &NameLock, kernel: &KernelName) -> Result<Image, ImageError> {
        let mut image = self.get(id)?;
        image.manifest.kernel = Some(kernel.clone());
        image.manifest.kernel_chosen = true;
        image.manifest.rewrite(&self.shelf, lock)?;
        Ok(image)
    }
}

/// Name of the lock for builds of one name from one source.
fn build_lock(name: &ImageName, source: &Source) -> String {
    let mut hash = Sha256::new();
    hash.update(name.as_str());
    hash.update(serde_json::to_vec(source).expect("a source holds nothing JSON cannot"));
    format!("build-{}", HEXLOWER.encode(&hash.finalize()[..8]))
}

pub(super) fn check_superblock(image: &Image) -> Result<(), Corruption> {
    let file = File::open(&image.rootfs)?;
    let is = file.metadata()?.len();
    let should = image.manifest.size_bytes;
    if is != should {
        return Err(Corruption::Size { is, should });
    }
    let mut superblock = [0; 64];
    file.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let blocks = u32::from_le_bytes(superblock[BLOCKS..BLOCKS + 4].try_into().expect("four bytes"));
    // Images made here have a block size that divides the file; a file that was taken over, and may have become a
    // bundle, keeps the block size it had, and may have an unused tail.
    let block = 1024_u64 << superblock[LOG_BLOCK].min(6);
    let bytes = u64::from(blocks) * block;
    let foreign = matches!(image.manifest.source, Source::Promoted(_) | Source::Bundle(_));
    let whole = if foreign { bytes <= should } else { bytes == should };
    let good = superblock[MAGIC..MAGIC + 2] == [0x53, 0xEF] && whole;
    if good { Ok(()) } else { Err(Corruption::Superblock) }
}

#[cfg(test)]
mod tests;
