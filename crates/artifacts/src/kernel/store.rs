//! The kernels on this host.
//!
//! Each is a directory under its name, published whole. Decides when a kernel is there, when it is damaged and who may
//! change it (one at a time per name); refuses to know who uses a kernel, which the caller asks before it removes one.

use super::{
    apt::Apt,
    catalog::{Catalog, CatalogEntry, Source},
    deb::Deb,
    elf::Elf,
    error::{Corruption, KernelError},
    import::{self, Description, Draft, INITRD, LIMITS, MODULES, MODULES_IMAGE, TREE, VMLINUX},
    loose_files::LooseFiles,
    manifest::{KernelManifest, Provenance},
    tree::{self, TreeError, regular},
};
use crate::{
    fetch::Client,
    initramfs::{BootFiles, InitramfsCache},
    job::{Job, told},
    publish::{NameLock, Shelf},
};
use banger_proto::name::KernelName;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Where kernels are kept.
#[derive(Debug)]
pub struct KernelStore {
    shelf: Shelf,
    downloads: Shelf,
    apt_home: PathBuf,
    initramfs: InitramfsCache,
    client: Client,
}

/// A kernel on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Where its files are.
    pub directory: PathBuf,
    /// Its manifest.
    pub manifest: KernelManifest,
}

/// All kernels on this host.
#[derive(Debug, Default)]
pub struct Listing {
    /// The sound ones, by name.
    pub kernels: Vec<Kernel>,
    /// Names whose kernel is damaged, and how.
    pub damaged: Vec<(KernelName, KernelError)>,
}

/// The right to take a kernel away.
#[derive(Debug)]
#[must_use]
pub struct RemovalLock {
    name: KernelName,
    lock: NameLock,
}

/// What a pull came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was fetched now.
    Pulled,
    /// It was there.
    AlreadyThere,
}

impl Kernel {
    /// The kernel `name`, which would be in `directory`. Its manifest and its image's structure are checked;
    /// [`Self::verify`] checks every byte.
    pub fn read(directory: &Path, name: &KernelName) -> Result<Self, KernelError> {
        match fs::symlink_metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KernelError::Io { what: "read", path: directory.to_owned(), source: error });
            }
            _ => return Err(KernelError::NotFound { name: name.clone() }),
        }
        let corrupt = |source| KernelError::Corrupt { name: name.clone(), source };
        let manifest = KernelManifest::read(directory, name).map_err(|error| corrupt(error.into()))?;
        let unreadable = |file| move |source| Corruption::File { file, source };
        let (image, _) = regular(&directory.join(VMLINUX)).map_err(unreadable(VMLINUX)).map_err(corrupt)?;
        Elf::inspect(&image).map_err(|error| corrupt(error.into()))?;
        if manifest.modules_image_sha256.is_some() || !manifest.boot_modules.is_empty() {
            regular(&directory.join(MODULES_IMAGE)).map_err(unreadable(MODULES_IMAGE)).map_err(corrupt)?;
        }
        Ok(Self { directory: directory.to_owned(), manifest })
    }

    /// Reads all of it and compares it with its manifest.
    pub fn verify(&self, job: &Job<'_>) -> Result<(), KernelError> {
        let manifest = &self.manifest;
        job.progress.phase(&format!("checking kernel {}", manifest.name));
        let corrupt = |source| KernelError::Corrupt { name: manifest.name.clone(), source };
        let compare = |what, expected: &str, found: &str| {
            let (expected, found) = (expected.to_owned(), found.to_owned());
            if expected == found { Ok(()) } else { Err(corrupt(Corruption::Hash { what, expected, found })) }
        };
        let failed = |error: TreeError| KernelError::from(error).or_cancelled(job.cancel);
        let found = tree::hash(&self.directory, &TREE, &[], LIMITS, job.cancel).map_err(failed)?;
        let gone = || corrupt(Corruption::File { file: VMLINUX, source: io::ErrorKind::NotFound.into() });
        compare(VMLINUX, &manifest.sha256, found.of(VMLINUX).ok_or_else(gone)?)?;
        compare("files", &manifest.tree_sha256, &found.tree)?;
        // What the guest mounts. One that an earlier banger made of a tree of modules has no hash; one without a tree
        // is never mounted, and is not ours.
        let Some(expected) = &manifest.modules_image_sha256 else {
            let added = self.modules().is_none() && self.directory.join(MODULES_IMAGE).symlink_metadata().is_ok();
            return if added { Err(corrupt(Corruption::Added(MODULES_IMAGE))) } else { Ok(()) };
        };
        let image = tree::file_sha256(&self.directory.join(MODULES_IMAGE), job.cancel).map_err(failed)?;
        compare(MODULES_IMAGE, expected, &image)
    }

    /// The kernel image, an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join(VMLINUX)
    }

    /// Its own initrd, if it came with one.
    pub fn initrd(&self) -> Option<PathBuf> {
        Some(self.directory.join(INITRD)).filter(|path| path.exists())
    }

    /// Its modules (the content of `lib/modules/<release>`), if it has any.
    pub fn modules(&self) -> Option<PathBuf> {
        Some(self.directory.join(MODULES)).filter(|path| path.exists())
    }

    /// The read-only ext4 of its modules, if it has any. A file of that name beside a kernel without modules is not one.
    pub fn modules_image(&self) -> Option<PathBuf> {
        self.modules()?;
        Some(self.directory.join(MODULES_IMAGE)).filter(|path| path.exists())
    }

    /// Bytes its files take on the disk.
    pub fn disk_bytes(&self) -> Result<u64, KernelError> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        let job = crate::job::Cancel::default();
        tree::walk(&self.directory, LIMITS, &job, &mut |_, node| {
            if let tree::Node::File(file, length) = node {
                bytes += file.metadata().map_or(length, |metadata| metadata.blocks() * 512);
            }
            Ok::<_, KernelError>(())
        })?;
        Ok(bytes)
    }
}

impl KernelStore {
    /// Opens the store in `directory`; `cache` holds what can be made again. Both are made when absent.
    pub fn open(directory: &Path, cache: &Path) -> Result<Self, KernelError> {
        Self::on(Shelf::open(directory)?, cache)
    }

    /// The same without waiting until what killed pulls left is gone.
    pub fn open_at_once(directory: &Path, cache: &Path) -> Result<Self, KernelError> {
        Self::on(Shelf::open_at_once(directory)?, cache)
    }

    fn on(shelf: Shelf, cache: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            shelf,
            downloads: Shelf::open(cache.join("downloads"))?,
            apt_home: cache.join("apt"),
            initramfs: InitramfsCache::open(&cache.join("initramfs"))?,
            client: Client::default(),
        })
    }

    /// The same store, with another patience for downloads.
    #[must_use]
    pub fn downloading_with(self, client: Client) -> Self {
        Self { client, ..self }
    }

    /// Every kernel.
    pub fn list(&self) -> Result<Listing, KernelError> {
        let mut listing = Listing::default();
        for name in self.shelf.names()? {
            // Other names were not put there by banger.
            let Ok(name) = name.parse::<KernelName>() else { continue };
            match self.get(&name) {
                Ok(kernel) => listing.kernels.push(kernel),
                Err(KernelError::NotFound { .. }) => {}
                Err(error) => listing.damaged.push((name, error)),
            }
        }
        Ok(listing)
    }

    /// The kernel `name`, as [`Kernel::read`] finds it.
    pub fn get(&self, name: &KernelName) -> Result<Kernel, KernelError> {
        Kernel::read(&self.shelf.path(name.as_str())?, name)
    }

    /// Makes the catalog's kernel `name` be here. One that is here and sound is left alone unless `force` is set; a
    /// damaged one is replaced. Of two pulls at once one fetches and both succeed.
    pub fn pull(
        &self,
        name: &KernelName,
        catalog: &Catalog,
        force: bool,
        job: &Job<'_>,
    ) -> Result<(Kernel, Outcome), KernelError> {
        if let Some(kernel) = self.sound(name).filter(|_| !force) {
            return Ok((kernel, Outcome::AlreadyThere));
        }
        let arch = std::env::consts::ARCH;
        let entry = catalog.find(name, arch).ok_or_else(|| KernelError::NotOffered { name: name.clone(), arch })?;
        let lock = self.lock(name, job)?;
        if let Some(kernel) = self.sound(name).filter(|_| !force) {
            return Ok((kernel, Outcome::AlreadyThere));
        }
        let mut failures = Vec::new();
        // A source of another banger's says less than one that failed.
        let is_useless = |error: &KernelError| matches!(error, KernelError::Source(_));
        for source in &entry.sources {
            if !matches!(source, Source::Unusable(_))
                && let Some(error) = failures.iter().rev().find(|error| !is_useless(error))
            {
                job.progress
                    .notice(&format!("a source did not give kernel {name} ({}); the next is asked", told(error)));
            }
            let error = match self.pull_from(source, entry, &lock, job) {
                Ok(kernel) => return Ok((kernel, Outcome::Pulled)),
                Err(error) => error.or_cancelled(job.cancel),
            };
            if matches!(error, KernelError::Cancelled(_)) {
                return Err(error);
            }
            tracing::warn!(kernel = %name, error = &error as &dyn std::error::Error, "a source did not give the kernel");
            failures.push(error);
        }
        if !failures.iter().all(is_useless) {
            failures.retain(|error| !is_useless(error));
        }
        let source = Box::new(KernelError::in_order(failures).expect("a catalog entry has a source"));
        Err(KernelError::Pull { name: name.clone(), source })
    }

    fn pull_from(
        &self,
        source: &Source,
        entry: &CatalogEntry,
        lock: &NameLock,
        job: &Job<'_>,
    ) -> Result<Kernel, KernelError> {
        match source {
            Source::Unusable(reason) => Err(reason.clone().into()),
            Source::Bundle(bundle) => {
                let description = Description { distro: Some(entry.distro.clone()), ..Description::default() };
                self.publish(&entry.name, &description, lock, job, |draft| bundle.receive(&self.client, draft))
            }
            Source::Apt { package, kernel } => {
                let download = self.downloads.stage()?;
                let apt = Apt::new(&self.apt_home)?;
                let (package, path) = apt.fetch(package, kernel, download.path(), job)?;
                let file = File::open(&path).map_err(|source| KernelError::Io { what: "open", path, source })?;
                let deb = Deb::open(file, job.cancel)?;
                let description = Description { distro: Some(entry.distro.clone()), ..Description::default() };
                let (version, sha256) = (package.version, package.sha256);
                let provenance = Provenance::Apt { package: package.name, version, sha256 };
                self.publish(&entry.name, &description, lock, job, |draft| {
                    draft.add_deb(&deb)?;
                    Ok(provenance)
                })
            }
        }
    }

    /// Makes a kernel from a directory, a package or a kernel file. A kernel of that name is only replaced if `replace`.
    pub fn import(
        &self,
        name: &KernelName,
        from: &Path,
        description: &Description,
        replace: bool,
        job: &Job<'_>,
    ) -> Result<Kernel, KernelError> {
        self.import_with(name, from, description, replace, job, |draft| import::gather(from, draft))
    }

    /// Makes a kernel from files that lie in different places; otherwise as [`Self::import`].
    pub fn import_files(
        &self,
        name: &KernelName,
        files: &LooseFiles,
        description: &Description,
        replace: bool,
        job: &Job<'_>,
    ) -> Result<Kernel, KernelError> {
        self.import_with(name, &files.kernel, description, replace, job, |draft| files.gather(draft))
    }

    fn import_with(
        &self,
        name: &KernelName,
        from: &Path,
        description: &Description,
        replace: bool,
        job: &Job<'_>,
        gather: impl FnOnce(&mut Draft<'_>) -> Result<Provenance, KernelError>,
    ) -> Result<Kernel, KernelError> {
        let lock = self.lock(name, job)?;
        if !replace && !matches!(self.get(name), Err(KernelError::NotFound { .. })) {
            return Err(KernelError::AlreadyExists { name: name.clone() });
        }
        self.publish(name, description, &lock, job, gather).map_err(|error| match error.or_cancelled(job.cancel) {
            cancelled @ KernelError::Cancelled(_) => cancelled,
            error => KernelError::Import { name: name.clone(), from: from.to_owned(), source: Box::new(error) },
        })
    }

    fn publish(
        &self,
        name: &KernelName,
        description: &Description,
        lock: &NameLock,
        job: &Job<'_>,
        gather: impl FnOnce(&mut Draft<'_>) -> Result<Provenance, KernelError>,
    ) -> Result<Kernel, KernelError> {
        let staging = self.shelf.stage()?;
        let mut draft = Draft::new(staging.path(), description, job)?;
        let source = gather(&mut draft)?;
        let manifest = draft.finish(name, source)?;
        job.cancel.check()?;
        job.progress.phase(&format!("bringing kernel {name} to the disk"));
        let directory = self.shelf.publish(staging, lock)?;
        Ok(Kernel { directory, manifest })
    }

    /// Waits until nobody works on a kernel, and lets nobody begin until what is answered is dropped.
    pub fn lock_for_removal(&self, name: &KernelName, job: &Job<'_>) -> Result<RemovalLock, KernelError> {
        Ok(RemovalLock { name: name.clone(), lock: self.lock(name, job)? })
    }

    /// Takes a kernel away, damaged or not. Files a VM has open stay readable to it.
    pub fn remove(&self, name: &KernelName, job: &Job<'_>) -> Result<(), KernelError> {
        self.remove_locked(self.lock_for_removal(name, job)?)
    }

    /// Takes the kernel away whose turn it is.
    pub fn remove_locked(&self, held: RemovalLock) -> Result<(), KernelError> {
        if self.shelf.remove(&held.lock)? { Ok(()) } else { Err(KernelError::NotFound { name: held.name }) }
    }

    /// What a VMM is given to boot `kernel` with the guest agent at `agent`, made when it is not in the cache.
    pub fn boot_files(&self, kernel: &Kernel, agent: &Path, job: &Job<'_>) -> Result<BootFiles, KernelError> {
        let made = self.initramfs.boot_files(kernel, agent, job);
        made.map_err(|error| KernelError::from(error).or_cancelled(job.cancel))
    }

    fn sound(&self, name: &KernelName) -> Option<Kernel> {
        self.get(name).ok()
    }

    fn lock(&self, name: &KernelName, job: &Job<'_>) -> Result<NameLock, KernelError> {
        Ok(self.shelf.lock_saying(name.as_str(), &format!("waiting for somebody else's work on kernel {name}"), job)?)
    }
}
