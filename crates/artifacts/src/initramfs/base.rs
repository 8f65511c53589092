//! The base of the initramfs, shared by all VMs with one kernel and one agent, and its cache.

use super::{InitramfsError, at, cpio::Cpio};
use crate::{
    job::{Cancel, Job},
    kernel::{Codec, Elf, Kernel, boot_modules},
    publish::Shelf,
};
use banger_proto::agent::{
    boot::{CONFIG_PATH, MODULES_DIR},
    driver::DRIVERS,
};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, DirEntry, File},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// Version of the archive's layout: changes when the same inputs give another archive.
const LAYOUT: &str = "2";
/// Time for which an archive is kept after its last use.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Upper bound of the agent, in bytes.
const MAX_AGENT: u64 = 64 << 20;
/// Upper bound of an unpacked module, in bytes.
const MAX_MODULE: u64 = 64 << 20;
/// Upper bound of a kernel's own initrd, in bytes.
const MAX_INITRD: u64 = 512 << 20;

/// Files that a VMM boots, apart from the VM's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel image, an ELF file.
    pub vmlinux: PathBuf,
    /// The shared part of the initramfs; see [`super::append_config`].
    pub initramfs: PathBuf,
    /// A read-only ext4 of the kernel's modules, if it has any.
    pub modules_image: Option<PathBuf>,
    /// `uname -r`.
    pub kernel_version: String,
}

/// Cache of base archives, keyed by their inputs.
#[derive(Debug)]
pub struct InitramfsCache {
    shelf: Shelf,
    /// Hashes of agents, by the identity of the file.
    agents: Mutex<HashMap<Identity, String>>,
}

/// Identity of an unchanged file: device, inode, length, modification time and change time.
type Identity = (u64, u64, u64, (i64, i64), (i64, i64));

impl InitramfsCache {
    /// Opens the cache in `directory`, which is created when absent.
    pub fn open(directory: &Path) -> Result<Self, InitramfsError> {
        Ok(Self { shelf: Shelf::open(directory)?, agents: Mutex::default() })
    }

    /// Returns the boot files of `kernel` with the agent at `agent`. The archive is made when it is not cached; of two
    /// concurrent callers one makes it.
    pub fn boot_files(&self, kernel: &Kernel, agent: &Path, job: &Job<'_>) -> Result<BootFiles, InitramfsError> {
        let name = key(kernel, &self.agent_hash(agent, job.cancel)?);
        let mut initramfs = self.shelf.path(&name)?;
        if !initramfs.exists() {
            let _lock = self.shelf.lock(&name, job.cancel)?;
            if !initramfs.exists() {
                job.progress.phase("packing the initramfs");
                initramfs = self.build(kernel, agent, job)?;
                prune(&initramfs);
            }
        }
        // Records the last use. Only [`prune`] reads it, so a failure is ignored.
        let _ = File::open(&initramfs).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(BootFiles {
            vmlinux: kernel.vmlinux(),
            initramfs,
            modules_image: kernel.modules_image(),
            kernel_version: kernel.manifest.kernel_version.clone(),
        })
    }

    fn build(&self, kernel: &Kernel, agent: &Path, job: &Job<'_>) -> Result<PathBuf, InitramfsError> {
        let content = read(agent, MAX_AGENT)?;
        if !content.starts_with(&Elf::MAGIC) {
            return Err(InitramfsError::Agent(agent.to_owned()));
        }
        let mut staged = self.shelf.stage_file()?;
        let path = staged.path().to_owned();
        let out = staged.file_mut();
        if let Some(initrd) = kernel.initrd() {
            let file = File::open(&initrd).map_err(at("open", &initrd))?;
            let copied = io::copy(&mut file.take(MAX_INITRD + 1), out).map_err(at("copy", &initrd))?;
            if copied > MAX_INITRD {
                return Err(InitramfsError::TooLarge { path: initrd, limit: MAX_INITRD });
            }
            let padding = usize::try_from(copied.next_multiple_of(4) - copied).expect("below four");
            out.write_all(&[0; 4][..padding]).map_err(at("write", &path))?;
        }
        let mut archive = Cpio::new(BufWriter::with_capacity(256 << 10, out));
        write_base(&mut archive, kernel, &content, job.cancel)?;
        archive.finish()?;
        // Named after the content that was read: the agent may have changed since it was hashed.
        let name = key(kernel, &HEXLOWER.encode(&Sha256::digest(&content)));
        Ok(self.shelf.publish_file(staged, &name)?)
    }

    /// SHA-256 of the agent, computed once while the file stays unchanged.
    fn agent_hash(&self, agent: &Path, cancel: &Cancel) -> Result<String, InitramfsError> {
        let mut file = File::open(agent).map_err(at("open", agent))?;
        let metadata = file.metadata().map_err(at("read", agent))?;
        if !metadata.is_file() || metadata.len() > MAX_AGENT {
            return Err(InitramfsError::TooLarge { path: agent.to_owned(), limit: MAX_AGENT });
        }
        let identity = (
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        );
        let agents = || self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = agents().get(&identity) {
            return Ok(hash.clone());
        }
        file.rewind().map_err(at("read", agent))?;
        cancel.check()?;
        let (hash, _) = crate::kernel::sha256(&mut file.take(MAX_AGENT), cancel).map_err(at("read", agent))?;
        agents().insert(identity, hash.clone());
        Ok(hash)
    }
}

/// Removes archives unused for a while, when a new one was made: those of older agents and removed kernels. VMs boot
/// from copies, so nothing breaks, and a removed archive can be made again.
fn prune(new: &Path) {
    let old = |entry: &DirEntry| {
        let is_archive = entry.path().extension().is_some_and(|extension| extension == "cpio");
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let unused = modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > KEPT));
        is_archive && unused && entry.path() != new
    };
    for entry in new.parent().into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().filter(old) {
        let _ = fs::remove_file(entry.path());
    }
}

/// The archive's file name: a hash over everything it is made from.
fn key(kernel: &Kernel, agent: &str) -> String {
    let mut hash = Sha256::new();
    for part in [LAYOUT, &kernel.manifest.tree_sha256, agent] {
        hash.update(part);
        hash.update([0]);
    }
    // Banger chooses the drivers; their dependencies follow from the tree.
    for driver in DRIVERS {
        hash.update(driver.name);
        hash.update([0]);
    }
    format!("{}.cpio", &HEXLOWER.encode(&hash.finalize())[..32])
}

fn write_base<W: Write>(
    archive: &mut Cpio<W>,
    kernel: &Kernel,
    agent: &[u8],
    cancel: &Cancel,
) -> Result<(), InitramfsError> {
    archive.directory("dev", 0o755)?;
    // Without it the kernel cannot give /init its standard streams.
    archive.char_device("dev/console", 0o600, 5, 1)?;
    let below = |path: &'static str| path.trim_start_matches('/');
    let config_directory = below(CONFIG_PATH).rsplit_once('/').map_or("", |(directory, _)| directory);
    let modules = below(MODULES_DIR);
    archive.directory(config_directory, 0o755)?;
    archive.directory(modules, 0o755)?;
    if let Some(tree) = kernel.modules() {
        // Read from the tree and not from the manifest, which another banger may have written.
        for (index, (driver, load)) in boot_modules(&tree)?.drivers.iter().enumerate() {
            let directory = format!("{modules}/{index:02}-{driver}");
            archive.directory(&directory, 0o755)?;
            for (index, module) in load.iter().enumerate() {
                cancel.check()?;
                let content = unpacked(&tree.join(module))?;
                // Numbered in loading order; there are at most 256, so names sort as numbers do.
                let name = format!("{directory}/{index:03}-{}.ko", crate::kernel::module_name(module));
                archive.file(&name, 0o644, &content)?;
            }
        }
    }
    archive.file("init", 0o755, agent)?;
    Ok(())
}

/// Reads a module, unpacked: unpacking it in every guest would cost boot time.
fn unpacked(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let content = read(path, MAX_MODULE)?;
    if content.starts_with(&Elf::MAGIC) {
        return Ok(content);
    }
    let failed = |source| InitramfsError::Module { path: path.to_owned(), source };
    let decoder = Codec::sniff(&content).and_then(|codec| codec.decoder(&content[..])).map_err(failed)?;
    read_all(decoder, path, MAX_MODULE)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, InitramfsError> {
    read_all(File::open(path).map_err(at("open", path))?, path, limit)
}

fn read_all(reader: impl Read, path: &Path, limit: u64) -> Result<Vec<u8>, InitramfsError> {
    let mut content = Vec::new();
    reader.take(limit + 1).read_to_end(&mut content).map_err(at("read", path))?;
    if content.len() as u64 > limit {
        return Err(InitramfsError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(content)
}
