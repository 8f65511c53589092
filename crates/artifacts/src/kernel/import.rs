//! Imports a package, a directory or a file into a staged kernel directory.
//!
//! Every import gathers the same files (an image, perhaps modules, perhaps an initrd) and ends in [`Draft::finish`],
//! which unpacks, checks and describes them. Publishing is the store's job.

mod finish;
mod package;

use super::{
    archive::{ArchiveError, Limits},
    bzimage::MAX_KERNEL,
    config,
    deb::{self, Deb},
    error::{KernelError, Unusable},
    hashing_write::Written,
    image::Image,
    manifest::{Provenance, is_release},
    stage::Stage,
    tree::{self, Node, regular},
};
use crate::job::Job;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

/// Name of the kernel image in its directory.
pub(super) const VMLINUX: &str = "vmlinux";
/// Name of the kernel's own initrd.
pub(super) const INITRD: &str = "initrd.img";
/// Name of the directory of modules: the content of `lib/modules/<release>`.
pub(super) const MODULES: &str = "modules";
/// Name of the read-only ext4 made from the modules.
pub(super) const MODULES_IMAGE: &str = "modules.ext4";
/// Limits of a kernel. A full distribution kernel has 6,000 modules and 600 MiB.
pub(super) const LIMITS: Limits = Limits { entries: 100_000, bytes: 4 << 30 };
/// Upper bound of an initrd, in bytes.
pub(super) const MAX_INITRD: u64 = 512 << 20;
/// Work directory below the staging directory.
const WORK: &str = "work";

/// Properties of a kernel given by the user, where its files lack them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Distribution that makes it; `unknown` by default.
    pub distro: Option<String>,
    /// Architecture; must be the host's.
    pub arch: Option<String>,
    /// `uname -r`; required where the kernel does not contain it, and must match where it does.
    pub kernel_version: Option<String>,
}

/// A kernel being assembled in a staging directory.
pub(super) struct Draft<'a> {
    pub(super) staging: &'a Path,
    description: &'a Description,
    /// Tree in which the modules are assembled, as `lib/modules/<release>`.
    pub(super) work: Stage,
    pub(super) job: &'a Job<'a>,
    image: Option<Image>,
    config: Option<String>,
    /// Release of the module tree, if there is one.
    modules: Option<String>,
    /// Hashes of files, where they are known already.
    hashes: Vec<(&'static str, String)>,
    /// Files that are being synced.
    syncing: Vec<(&'static str, JoinHandle<io::Result<()>>)>,
}

impl<'a> Draft<'a> {
    /// Assembles a kernel in the empty directory `staging`.
    pub(super) fn new(staging: &'a Path, description: &'a Description, job: &'a Job<'a>) -> Result<Self, KernelError> {
        let mut work = Stage::new(staging.join(WORK), LIMITS.entries);
        work.directory(Path::new(""))?;
        let (hashes, syncing) = (Vec::new(), Vec::new());
        Ok(Self { staging, description, work, job, image: None, config: None, modules: None, hashes, syncing })
    }

    /// Adds the files of a directory: `vmlinux`, `bzImage` or `vmlinuz`; `initrd.img`; `config`; `modules/` or
    /// `lib/modules/<release>/`.
    pub(super) fn add_directory(&mut self, from: &Path) -> Result<(), KernelError> {
        self.job.progress.phase(&format!("copying {}", from.display()));
        for name in [VMLINUX, "bzImage", "vmlinuz"] {
            if let Some(file) = Self::open_part(from, name, MAX_KERNEL)? {
                self.add_image(file)?;
            }
        }
        if let Some(mut file) = Self::open_part(from, "config", config::MAX_CONFIG)? {
            self.add_config(&mut file)?;
        }
        if let Some(mut file) = Self::open_part(from, INITRD, MAX_INITRD)? {
            self.add_initrd(&mut file)?;
        }
        let trees = from.join("lib/modules");
        if trees.is_dir() {
            self.add_trees(&trees)?;
        }
        let tree = from.join(MODULES);
        if tree.is_dir() {
            self.add_tree(&tree)?;
        }
        Ok(())
    }

    /// Adds an initrd.
    pub(super) fn add_initrd(&mut self, file: &mut File) -> Result<(), KernelError> {
        let mut out = File::create_new(self.staging.join(INITRD)).map_err(|e| self.io("create", e))?;
        io::copy(file, &mut out).map_err(|e| self.io("write to", e))?;
        Ok(())
    }

    /// Adds the one module tree in a `lib/modules`, whose name is its release.
    pub(super) fn add_trees(&mut self, trees: &Path) -> Result<(), KernelError> {
        for entry in fs::read_dir(trees).map_err(|e| io_at("read", trees, e))? {
            let entry = entry.map_err(|e| io_at("read", trees, e))?;
            self.set_modules(&entry.file_name().to_string_lossy())?;
            self.add_modules(&entry.path())?;
        }
        Ok(())
    }

    /// Adds a module tree for the kernel that was added before.
    pub(super) fn add_tree(&mut self, tree: &Path) -> Result<(), KernelError> {
        let release = self.release()?;
        self.set_modules(&release)?;
        self.add_modules(tree)
    }

    /// Adds a kernel image, ELF or bzImage.
    pub(super) fn add_image(&mut self, file: File) -> Result<(), KernelError> {
        if self.image.is_some() {
            return Err(Unusable::TwoKernels.into());
        }
        self.image = Some(Image::unpack(file, self.staging, self.job)?);
        Ok(())
    }

    /// Sets the unpacked image, which is in the staging directory.
    pub(super) fn set_image(&mut self, image: Image) {
        self.image = Some(image);
    }

    /// Records the hash and the running sync of the file `name` in the staging directory.
    pub(super) fn written(&mut self, name: &'static str, Written { sha256, syncing, .. }: Written) {
        self.hashes.push((name, sha256));
        self.syncing.push((name, syncing));
    }

    /// Release of the image, else that given by the user.
    pub(super) fn release(&self) -> Result<String, Unusable> {
        let image = self.image.as_ref().ok_or(Unusable::NoKernel)?;
        let known = image.release.as_ref().or(self.description.kernel_version.as_ref());
        known.cloned().ok_or(Unusable::NoRelease)
    }

    pub(super) fn set_modules(&mut self, release: &str) -> Result<(), KernelError> {
        match &self.modules {
            Some(known) if known == release => Ok(()),
            Some(known) => Err(Unusable::TwoTrees(known.clone(), release.to_owned()).into()),
            None if !is_release(release) => Err(Unusable::BadRelease(release.chars().take(80).collect()).into()),
            None => {
                self.work.directory(&Path::new("lib/modules").join(release))?;
                self.modules = Some(release.to_owned());
                Ok(())
            }
        }
    }

    fn add_modules(&mut self, tree: &Path) -> Result<(), KernelError> {
        let base = Path::new("lib/modules").join(self.modules.as_deref().expect("set before its content is added"));
        tree::walk(tree, LIMITS, self.job.cancel, &mut |path, node| {
            let inside = base.join(path);
            match node {
                _ if is_build_link(path) => {}
                Node::Directory => self.work.directory(&inside)?,
                Node::File(mut file, _) => {
                    self.work.file(&inside, &mut file)?;
                }
                Node::Symlink(target) => self.work.symlink(&inside, target)?,
                Node::Other => return Err(ArchiveError::Kind { path: path.to_owned(), kind: "special file" }.into()),
            }
            Ok::<_, KernelError>(())
        })
    }

    fn add_config(&mut self, content: &mut dyn Read) -> Result<(), KernelError> {
        let mut text = Vec::new();
        content.take(config::MAX_CONFIG).read_to_end(&mut text).map_err(ArchiveError::from)?;
        self.config = Some(String::from_utf8_lossy(&text).into_owned());
        Ok(())
    }

    /// Opens a regular file of limited size in the given directory; `None` if it does not exist.
    fn open_part(from: &Path, name: &str, limit: u64) -> Result<Option<File>, KernelError> {
        open_given(&from.join(name), limit)
    }

    fn io(&self, what: &'static str, source: io::Error) -> KernelError {
        io_at(what, self.staging, source)
    }
}

/// Files and directories the tree hash covers.
pub(super) const TREE: [&str; 3] = [VMLINUX, INITRD, MODULES];

/// Adds whatever is at `from` to the draft, and returns its kind.
pub(super) fn gather(from: &Path, draft: &mut Draft<'_>) -> Result<Provenance, KernelError> {
    let metadata = fs::metadata(from).map_err(|e| io_at("read", from, e))?;
    let path = from.to_string_lossy().into_owned();
    if metadata.is_dir() {
        draft.add_directory(from)?;
        return Ok(Provenance::Directory { path });
    }
    if !metadata.is_file() {
        return Err(Unusable::Kind.into());
    }
    let file = File::open(from).map_err(|e| io_at("open", from, e))?;
    let mut magic = [0; deb::MAGIC.len()];
    if file.read_exact_at(&mut magic, 0).is_ok() && magic == *deb::MAGIC {
        let deb = Deb::open(file, draft.job.cancel)?;
        draft.add_deb(&deb)?;
        return Ok(Provenance::Deb { path, package: deb.package, version: deb.version });
    }
    draft.add_image(file)?;
    Ok(Provenance::File { path })
}

/// Opens a regular file of limited size that the user named; `None` if it does not exist.
pub(super) fn open_given(path: &Path, limit: u64) -> Result<Option<File>, KernelError> {
    // Links are followed: the path is the user's, and `vmlinuz` often is a link.
    match fs::canonicalize(path).and_then(|path| regular(&path)) {
        Ok((_, length)) if length > limit => Err(tree::TreeError::TooLarge(path.to_owned()).into()),
        Ok((file, _)) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at("read", path, error)),
    }
}

/// Whether the path is a `build` or `source` link: they point to where the kernel was built, which does not exist in a
/// guest.
pub(super) fn is_build_link(path: &Path) -> bool {
    path == Path::new("build") || path == Path::new("source")
}

pub(super) fn io_at(what: &'static str, path: &Path, source: io::Error) -> KernelError {
    KernelError::Io { what, path: PathBuf::from(path), source }
}
