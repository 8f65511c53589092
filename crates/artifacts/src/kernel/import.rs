//! From what somebody has — a package, a directory, a file — to a staged kernel directory.
//!
//! Every way in gathers the same parts (an image, perhaps modules, perhaps an initrd) and ends in [`Draft::finish`],
//! which unpacks, checks and describes them. Publishing is the store's business.

use super::{
    archive::{ArchiveError, Limits, Member},
    bzimage::MAX_KERNEL,
    config::{self, Findings},
    deb::{self, Deb},
    elf::ElfError,
    error::{KernelError, Unusable},
    image::Image,
    manifest::{self, KernelManifest, Provenance, is_release, rfc3339},
    modules::{self, BootModules},
    stage::{Stage, fill},
    tree::{self, Hashes, Node, regular},
};
use crate::job::Job;
use banger_proto::name::KernelName;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
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
}

impl<'a> Draft<'a> {
    /// Puts together in `staging`, an empty directory.
    pub(super) fn new(staging: &'a Path, description: &'a Description, job: &'a Job<'a>) -> Result<Self, KernelError> {
        let mut work = Stage::new(staging.join(WORK), LIMITS.entries);
        work.directory(Path::new(""))?;
        Ok(Self { staging, description, work, job, image: None, config: None, modules: None })
    }

    /// Takes the kernel and its modules out of a package.
    pub(super) fn add_deb(&mut self, deb: &Deb) -> Result<(), KernelError> {
        if deb.architecture != deb_arch() {
            return Err(Unusable::Arch(deb.architecture.clone()).into());
        }
        self.job.progress.phase(&format!("unpacking {} {}", deb.package, deb.version));
        let (staging, job) = (self.staging, self.job);
        // The kernel stands before its modules in a package, and is packed itself: it is unpacked beside them.
        let image = thread::scope(|scope| {
            let mut unpacking = None;
            deb.each(LIMITS, job.cancel, |path, member| match member {
                Member::File(content) if is_kernel(path) => {
                    if unpacking.is_some() {
                        return Err(Unusable::TwoKernels.into());
                    }
                    let mut file = tempfile::tempfile_in(staging).map_err(|e| io_at("write to", staging, e))?;
                    fill(&mut file, path, &mut content.take(MAX_KERNEL))?;
                    unpacking = Some(scope.spawn(move || Image::unpack(file, staging, job)));
                    Ok(())
                }
                member => self.add_member(path, member),
            })?;
            let unpacked = unpacking.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            unpacked.transpose()
        })?;
        self.image = image;
        Ok(())
    }

    fn add_member(&mut self, path: &Path, member: Member<'_>) -> Result<(), KernelError> {
        // Packages are on their way from /lib to /usr/lib.
        let path = path.strip_prefix("usr").ok().filter(|path| path.starts_with("lib/modules")).unwrap_or(path);
        if let Ok(name) = path.strip_prefix("boot") {
            return match member {
                Member::File(content) if name.to_string_lossy().starts_with("config-") => self.add_config(content),
                _ => Ok(()),
            };
        }
        let Ok(below) = path.strip_prefix("lib/modules") else { return Ok(()) };
        let mut parts = below.components();
        let Some(release) = parts.next() else { return Ok(()) };
        self.set_modules(&release.as_os_str().to_string_lossy())?;
        let inside = parts.as_path();
        if inside.as_os_str().is_empty() || is_build_link(inside) {
            return Ok(());
        }
        match member {
            Member::Directory => self.work.directory(path)?,
            Member::File(content) => {
                self.work.file(path, content)?;
            }
            Member::Symlink(target) => self.work.symlink(path, target)?,
            Member::HardLink(target) => {
                let target = target.strip_prefix("usr").unwrap_or(&target);
                self.work.hard_link(path, target)?;
            }
            Member::Other(kind) => return Err(ArchiveError::Kind { path: path.to_owned(), kind }.into()),
        }
        Ok(())
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
    pub(super) fn describe_image(&mut self, image: &File) -> Result<(), ElfError> {
        self.image = Some(Image::describe(image, None)?);
        Ok(())
    }

    /// Checks and describes the whole, and leaves in the staging directory what is published.
    pub(super) fn finish(self, name: &KernelName, source: Provenance) -> Result<KernelManifest, KernelError> {
        let image = self.image.ok_or(Unusable::NoKernel)?;
        let arch = std::env::consts::ARCH;
        if let Some(other) = self.description.arch.as_deref().filter(|other| *other != arch) {
            return Err(Unusable::Arch(other.to_owned()).into());
        }
        let vmlinux = self.staging.join(VMLINUX);
        // Searching costs a pass over the file; what came beside the kernel usually makes it unnecessary.
        let findings = match (image.findings, &self.config) {
            (Some(findings), _) => findings,
            (None, Some(_)) => Findings::default(),
            (None, None) => {
                let file = File::open(&vmlinux).map_err(|e| io_at("open", &vmlinux, e))?;
                Findings::search(&file).map_err(|e| io_at("read", &vmlinux, e))?
            }
        };
        let description = self.description;
        let said = [("the module tree", self.modules.as_deref()), ("the user", description.kernel_version.as_deref())];
        let release = settled(image.release.as_deref(), &said)?;
        let initrd = self.staging.join(INITRD);
        let staging = self.modules.is_some().then_some(self.staging);
        let (boot, boots, hashes) = meanwhile_on_the_disk(staging, &[&vmlinux, &initrd], || {
            let boot = Self::finish_modules(self.work, self.staging, self.modules.as_deref(), self.job)?;
            let boots = findings
                .boots(image.elf.pvh, self.config.as_deref(), boot.virtio_mmio.as_deref())
                .map_err(|e| io_at("read", &vmlinux, e))?;
            let hashes = image_and_hashes(self.staging, self.modules.is_some(), self.job)?;
            Ok::<_, KernelError>((boot, boots, hashes))
        })?;
        let manifest = KernelManifest {
            name: name.clone(),
            distro: description.distro.clone().unwrap_or_else(|| "unknown".to_owned()),
            arch: arch.to_owned(),
            kernel_version: release,
            sha256: hashes.of(VMLINUX).ok_or(Unusable::NoKernel)?.to_owned(),
            tree_sha256: hashes.tree,
            source,
            imported_at: rfc3339(SystemTime::now()),
            boot_modules: boot.load,
            missing_drivers: boot.missing,
            boots,
        };
        let path = self.staging.join(manifest::FILE);
        fs::write(&path, manifest.to_json()).map_err(|e| io_at("write", &path, e))?;
        Ok(manifest)
    }

    /// Moves the module tree to its place, indexed; works out what a guest loads from it.
    fn finish_modules(
        mut work: Stage,
        staging: &Path,
        release: Option<&str>,
        job: &Job<'_>,
    ) -> Result<BootModules, KernelError> {
        let root = work.root().to_owned();
        let remove = || fs::remove_dir_all(&root).map_err(|e| io_at("remove", &root, e));
        let Some(release) = release else {
            remove()?;
            return Ok(BootModules::default());
        };
        let below = Path::new("lib/modules").join(release);
        work.finish(&below)?;
        modules::depmod(&root, release, job)?;
        let tree = staging.join(MODULES);
        fs::rename(root.join(below), &tree).map_err(|e| io_at("create", &tree, e))?;
        remove()?;
        Ok(modules::boot_modules(&tree)?)
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

/// Where packages have the kernel itself.
fn is_kernel(path: &Path) -> bool {
    let name = path.strip_prefix("boot").ok().and_then(Path::to_str);
    name.is_some_and(|name| name.starts_with("vmlinuz-") || name.starts_with("vmlinux-"))
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

/// Does `work` while the disk begins with files that are final: with `paths`, or with a `tree` of many and all else that
/// its file system holds. Whatever fails there fails again, and is told, when the whole is synced.
fn meanwhile_on_the_disk<T>(tree: Option<&Path>, paths: &[&Path], work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        scope.spawn(|| match tree {
            Some(tree) => drop(File::open(tree).map(rustix::fs::syncfs)),
            None => paths.iter().for_each(|path| drop(File::open(path).and_then(|file| file.sync_data()))),
        });
        work()
    })
}

/// Reads the whole kernel twice at once: for what it is known by, and into the image of its modules.
fn image_and_hashes(staging: &Path, has_modules: bool, job: &Job<'_>) -> Result<Hashes, KernelError> {
    let (modules, image) = (staging.join(MODULES), staging.join(MODULES_IMAGE));
    thread::scope(|scope| {
        let writing = has_modules.then(|| {
            job.progress.phase("writing the image of the modules");
            scope.spawn(|| tree::image(&modules, &image, LIMITS, job))
        });
        job.progress.phase("checking the kernel's files");
        let hashes = tree::hash(staging, &TREE, LIMITS, job.cancel);
        if let Some(writing) = writing {
            writing.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(hashes?)
    })
}

/// The one release everybody agrees on.
fn settled(kernel: Option<&str>, others: &[(&'static str, Option<&str>)]) -> Result<String, KernelError> {
    let first = kernel.or_else(|| others.iter().find_map(|(_, release)| *release)).ok_or(Unusable::NoRelease)?;
    for (what, other) in others {
        if let Some(other) = other.filter(|other| *other != first) {
            return Err(Unusable::Release { kernel: first.to_owned(), what, other: other.to_owned() }.into());
        }
    }
    if is_release(first) {
        return Ok(first.to_owned());
    }
    Err(Unusable::BadRelease(first.chars().take(80).collect()).into())
}

/// `build` and `source` point at where the kernel was made, which is nowhere in a guest.
pub(super) fn is_build_link(path: &Path) -> bool {
    path == Path::new("build") || path == Path::new("source")
}

/// The host's processor in Debian's words.
fn deb_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn io_at(what: &'static str, path: &Path, source: io::Error) -> KernelError {
    KernelError::Io { what, path: PathBuf::from(path), source }
}
