//! The kernels on this host.
//!
//! Each is a directory under its name, published as a whole. Decides when a kernel exists, when it is damaged and who
//! may change it (one at a time per name). It does not know who uses a kernel; the caller checks that before it removes
//! one.

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

/// Store of kernels.
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
    /// Directory of its files.
    pub directory: PathBuf,
    /// Its manifest.
    pub manifest: KernelManifest,
}

/// All kernels on this host.
#[derive(Debug, Default)]
pub struct Listing {
    /// Undamaged kernels, by name.
    pub kernels: Vec<Kernel>,
    /// Names of damaged kernels, and their damage.
    pub damaged: Vec<(KernelName, KernelError)>,
}

/// Exclusive right to remove a kernel.
#[derive(Debug)]
#[must_use]
pub struct RemovalLock {
    name: KernelName,
    lock: NameLock,
}

/// Result of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was downloaded.
    Pulled,
    /// It existed already.
    AlreadyThere,
}

impl Kernel {
    /// Reads the kernel `name` in `directory`. Its manifest and its image's structure are checked; [`Self::verify`]
    /// checks every byte.
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

    /// Reads all files and compares them with the manifest.
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
        // The image of the modules, which the guest mounts. One made by an earlier banger has no hash; one without a
        // module tree is never mounted and was not made by banger.
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

    /// Its own initrd, if it has one.
    pub fn initrd(&self) -> Option<PathBuf> {
        Some(self.directory.join(INITRD)).filter(|path| path.exists())
    }

    /// Its modules (the content of `lib/modules/<release>`), if it has any.
    pub fn modules(&self) -> Option<PathBuf> {
        Some(self.directory.join(MODULES)).filter(|path| path.exists())
    }

    /// The read-only ext4 of its modules, if it has any. In a kernel without modules a file of that name is ignored.
    pub fn modules_image(&self) -> Option<PathBuf> {
        self.modules()?;
        Some(self.directory.join(MODULES_IMAGE)).filter(|path| path.exists())
    }

    /// Disk space of its files, in bytes.
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
    /// Opens the store in `directory`; `cache` holds files that can be made again. Both are created when absent.
    pub fn open(directory: &Path, cache: &Path) -> Result<Self, KernelError> {
        Self::on(Shelf::open(directory)?, cache)
    }

    /// Like [`Self::open`], without waiting until the leftovers of killed pulls are removed.
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

    /// Sets other timeouts for downloads.
    #[must_use]
    pub fn downloading_with(self, client: Client) -> Self {
        Self { client, ..self }
    }

    /// Lists all kernels.
    pub fn list(&self) -> Result<Listing, KernelError> {
        let mut listing = Listing::default();
        for name in self.shelf.names()? {
            // Other names were not created by banger.
            let Ok(name) = name.parse::<KernelName>() else { continue };
            match self.get(&name) {
                Ok(kernel) => listing.kernels.push(kernel),
                Err(KernelError::NotFound { .. }) => {}
                Err(error) => listing.damaged.push((name, error)),
            }
        }
        Ok(listing)
    }

    /// Returns the kernel `name`, checked as by [`Kernel::read`].
    pub fn get(&self, name: &KernelName) -> Result<Kernel, KernelError> {
        Kernel::read(&self.shelf.path(name.as_str())?, name)
    }

    /// Pulls the catalog's kernel `name`. An undamaged local one is kept unless `force` is set; a damaged one is
    /// replaced. Of two concurrent pulls one downloads and both succeed.
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
        // The error of a source that failed is more useful than that of an unsupported one.
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

    /// Imports a kernel from a directory, a package or a kernel file. An existing kernel of that name is only replaced
    /// if `replace` is set.
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

    /// Imports a kernel from files in different places; otherwise like [`Self::import`].
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
            error => {
                KernelError::Import { name: name.clone(), from: from.to_owned(), source: Box::new(error.below(from)) }
            }
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

    /// Locks a kernel for removal, waiting for other work on it.
    pub fn lock_for_removal(&self, name: &KernelName, job: &Job<'_>) -> Result<RemovalLock, KernelError> {
        Ok(RemovalLock { name: name.clone(), lock: self.lock(name, job)? })
    }

    /// Removes a kernel, damaged or not. Files a VM has open stay readable to it.
    pub fn remove(&self, name: &KernelName, job: &Job<'_>) -> Result<(), KernelError> {
        self.remove_locked(self.lock_for_removal(name, job)?)
    }

    /// Removes the locked kernel.
    pub fn remove_locked(&self, held: RemovalLock) -> Result<(), KernelError> {
        if self.shelf.remove(&held.lock)? { Ok(()) } else { Err(KernelError::NotFound { name: held.name }) }
    }

    /// Returns the files with which a VMM boots `kernel` with the guest agent at `agent`; they are made when they are
    /// not in the cache.
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
