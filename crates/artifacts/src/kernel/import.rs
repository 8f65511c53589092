//! From what somebody has — a package, a directory, a file — to a staged kernel directory.
//!
//! Every way in gathers the same parts (an image, perhaps modules, perhaps an initrd) and ends in [`Draft::finish`],
//! which unpacks, checks and describes them. Publishing is the store's business.

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

/// The kernel image's name in its directory.
pub(super) const VMLINUX: &str = "vmlinux";
/// The bundle's own initrd.
pub(super) const INITRD: &str = "initrd.img";
/// The modules: the content of `lib/modules/<release>`.
pub(super) const MODULES: &str = "modules";
/// The read-only ext4 made from the modules.
pub(super) const MODULES_IMAGE: &str = "modules.ext4";
/// How much a kernel may consist of. A full distribution kernel has 6,000 modules and 600 MiB.
pub(super) const LIMITS: Limits = Limits { entries: 100_000, bytes: 4 << 30 };
/// Largest initrd taken over.
pub(super) const MAX_INITRD: u64 = 512 << 20;
/// Where parts are put together, below the staging directory.
const WORK: &str = "work";

/// What the user says about a kernel that its files do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Who makes it; `unknown` if not said.
    pub distro: Option<String>,
    /// The processor; has to be the host's.
    pub arch: Option<String>,
    /// `uname -r`; only needed where the kernel does not say it, and has to be true where it does.
    pub kernel_version: Option<String>,
}

/// A kernel being put together in a staging directory.
pub(super) struct Draft<'a> {
    pub(super) staging: &'a Path,
    description: &'a Description,
    /// Where the modules are put together, as `lib/modules/<release>`.
    pub(super) work: Stage,
    pub(super) job: &'a Job<'a>,
    image: Option<Image>,
    config: Option<String>,
    /// The release the module tree is for, if there is one.
    modules: Option<String>,
    /// Hashes of files that are known already.
    hashes: Vec<(&'static str, String)>,
    /// What is on its way to the disk.
    syncing: Vec<(&'static str, JoinHandle<io::Result<()>>)>,
}

impl<'a> Draft<'a> {
    /// Puts together in `staging`, an empty directory.
    pub(super) fn new(staging: &'a Path, description: &'a Description, job: &'a Job<'a>) -> Result<Self, KernelError> {
        let mut work = Stage::new(staging.join(WORK), LIMITS.entries);
        work.directory(Path::new(""))?;
        let (hashes, syncing) = (Vec::new(), Vec::new());
        Ok(Self { staging, description, work, job, image: None, config: None, modules: None, hashes, syncing })
    }

    /// Takes over a directory: `vmlinux`, `bzImage` or `vmlinuz`; `initrd.img`; `config`; `modules/` or
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

    /// Takes an initrd.
    pub(super) fn add_initrd(&mut self, file: &mut File) -> Result<(), KernelError> {
        let mut out = File::create_new(self.staging.join(INITRD)).map_err(|e| self.io("create", e))?;
        io::copy(file, &mut out).map_err(|e| self.io("write to", e))?;
        Ok(())
    }

    /// Takes the one module tree in a `lib/modules`, whose name is its release.
    pub(super) fn add_trees(&mut self, trees: &Path) -> Result<(), KernelError> {
        for entry in fs::read_dir(trees).map_err(|e| io_at("read", trees, e))? {
            let entry = entry.map_err(|e| io_at("read", trees, e))?;
            self.set_modules(&entry.file_name().to_string_lossy())?;
            self.add_modules(&entry.path())?;
        }
        Ok(())
    }

    /// Takes a module tree for the kernel that was added before.
    pub(super) fn add_tree(&mut self, tree: &Path) -> Result<(), KernelError> {
        let release = self.release()?;
        self.set_modules(&release)?;
        self.add_modules(tree)
    }

    /// Takes a kernel image, ELF or bzImage.
    pub(super) fn add_image(&mut self, file: File) -> Result<(), KernelError> {
        if self.image.is_some() {
            return Err(Unusable::TwoKernels.into());
        }
        self.image = Some(Image::unpack(file, self.staging, self.job)?);
        Ok(())
    }

    /// Takes the unpacked image in the staging directory.
    pub(super) fn set_image(&mut self, image: Image) {
        self.image = Some(image);
    }

    /// Takes what is known of the file `name` since it was written to the staging directory.
    pub(super) fn written(&mut self, name: &'static str, Written { sha256, syncing, .. }: Written) {
        self.hashes.push((name, sha256));
        self.syncing.push((name, syncing));
    }

    /// What the image says its release is, else what the user says.
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

    /// A regular file in the directory given, of a bearable size; `None` if it is not there.
    fn open_part(from: &Path, name: &str, limit: u64) -> Result<Option<File>, KernelError> {
        open_given(&from.join(name), limit)
    }

    fn io(&self, what: &'static str, source: io::Error) -> KernelError {
        io_at(what, self.staging, source)
    }
}

/// What the tree hash covers.
pub(super) const TREE: [&str; 3] = [VMLINUX, INITRD, MODULES];

/// Gathers whatever is at `from`, and says what that was.
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

/// A regular file the user named, of a bearable size; `None` if it is not there.
pub(super) fn open_given(path: &Path, limit: u64) -> Result<Option<File>, KernelError> {
    // The user's own file: a link there is the user's word (`vmlinuz` often is one).
    match fs::canonicalize(path).and_then(|path| regular(&path)) {
        Ok((_, length)) if length > limit => Err(tree::TreeError::TooLarge(path.to_owned()).into()),
        Ok((file, _)) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at("read", path, error)),
    }
}

/// `build` and `source` point at where the kernel was made, which is nowhere in a guest.
pub(super) fn is_build_link(path: &Path) -> bool {
    path == Path::new("build") || path == Path::new("source")
}

pub(super) fn io_at(what: &'static str, path: &Path, source: io::Error) -> KernelError {
    KernelError::Io { what, path: PathBuf::from(path), source }
}
