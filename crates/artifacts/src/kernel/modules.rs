//! Determines which modules a guest needs before it has disks, and the order in which they are loaded.
//!
//! It works on a module tree with the indexes of `depmod`. The drivers are [`DRIVERS`], with which a guest reaches its
//! disks and its host. The guest decides which of them its machine loads; whether a VMM can do without one is decided
//! elsewhere.

use crate::{
    job::{Cancelled, Job},
    program::{Program, ProgramError},
};
use banger_proto::agent::driver::{DRIVERS, Driver};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// Upper bound of an index file, in bytes; `modules.alias` of a full distribution kernel has some 2 MiB.
const MAX_INDEX: u64 = 64 << 20;
/// Upper bound of a chain of soft dependencies.
const MAX_SOFT_DEPTH: usize = 16;

/// Upper bound of the modules packed for one guest. Debian's kernels need some 20.
const MAX_LOADED: usize = 256;

/// Why the modules of a kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// An index could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// An index names something outside the tree, or a module that is not there.
    #[error("{index} names {module:?}, which is not a module of this kernel")]
    Stray {
        /// The index.
        index: &'static str,
        /// What it names.
        module: String,
    },
    /// A guest would load more modules than any kernel needs.
    #[error("a guest would have to load more than {MAX_LOADED} modules")]
    TooMany,
    /// `depmod` failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Modules to load, and drivers that are missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BootModules {
    /// Drivers in loading order, each with the paths of its modules below the module tree. A module needed by two
    /// drivers of which a machine may have either is listed with both.
    pub(crate) drivers: Vec<(&'static str, Vec<String>)>,
    /// Wanted drivers that are neither built in nor there.
    pub(super) missing: Vec<String>,
    /// Path of the `virtio_mmio` module, if it is one.
    pub(super) virtio_mmio: Option<PathBuf>,
}

impl BootModules {
    /// Returns every module once, in the order in which a machine with all devices loads them.
    pub(super) fn all(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let modules = self.drivers.iter().flat_map(|(_, modules)| modules);
        modules.filter(|module| seen.insert(*module)).cloned().collect()
    }
}

/// Generates the indexes of the tree at `base/lib/modules/<release>`, unless they exist.
pub(super) fn depmod(base: &Path, release: &str, job: &Job<'_>) -> Result<(), ModulesError> {
    if base.join("lib/modules").join(release).join("modules.dep").exists() {
        return Ok(());
    }
    job.progress.phase("indexing kernel modules");
    // Run without the host's depmod.d: overrides for another kernel must not change the result.
    let depmod = Program::new("depmod", "kmod").args(["--config", "/dev/null", "--basedir"]).arg(base).arg(release);
    depmod.capture(1 << 20, job.cancel)?;
    Ok(())
}

/// Reads the indexes in `tree` and determines what a guest loads.
pub(crate) fn boot_modules(tree: &Path) -> Result<BootModules, ModulesError> {
    let index = Index::read(tree)?;
    let mut boot = BootModules::default();
    // Modules that every machine has loaded by then.
    let mut loaded = HashSet::new();
    for Driver { name, device } in DRIVERS {
        if index.builtin.contains(name) {
            continue;
        }
        if !index.modules.contains_key(name) {
            boot.missing.push(name.to_owned());
            continue;
        }
        let (mut load, mut seen) = (Vec::new(), loaded.clone());
        index.require(name, 0, &mut seen, &mut load);
        if device.is_none() {
            loaded = seen;
        }
        boot.drivers.push((name, load));
    }
    if boot.drivers.iter().map(|(_, modules)| modules.len()).sum::<usize>() > MAX_LOADED {
        return Err(ModulesError::TooMany);
    }
    for module in boot.drivers.iter().flat_map(|(_, modules)| modules) {
        let path = tree.join(module);
        if !std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return Err(ModulesError::Stray { index: "modules.dep", module: module.clone() });
        }
    }
    boot.virtio_mmio = index.modules.get("virtio_mmio").map(|module| tree.join(&module.path));
    Ok(boot)
}

/// `modules.dep`, `modules.builtin`, `modules.softdep` and `modules.alias`, by module name.
struct Index {
    modules: HashMap<String, Module>,
    builtin: HashSet<String>,
    /// Soft dependencies that are loaded before a module, by name or alias.
    before: HashMap<String, Vec<String>>,
    aliases: HashMap<String, Vec<String>>,
}

struct Module {
    path: String,
    /// Paths of the module and its dependencies; the last one is loaded first.
    needs: Vec<String>,
}

impl Index {
    fn read(tree: &Path) -> Result<Self, ModulesError> {
        let mut modules = HashMap::new();
        for line in text(tree, "modules.dep")?.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().map(|path| checked("modules.dep", path));
            let module = Module { path: checked("modules.dep", path)?, needs: needs.collect::<Result<_, _>>()? };
            modules.insert(name(path), module);
        }
        let builtin = text(tree, "modules.builtin")?.lines().map(name).collect();
        let mut before: HashMap<String, Vec<String>> = HashMap::new();
        for line in text(tree, "modules.softdep")?.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(module) = words.next() else { continue };
            let mut is_pre = false;
            for word in words {
                match word {
                    "pre:" => is_pre = true,
                    "post:" => is_pre = false,
                    other if is_pre => before.entry(underscored(module)).or_default().push(other.to_owned()),
                    _ => {}
                }
            }
        }
        let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
        let wanted: HashSet<&str> = before.values().flatten().map(String::as_str).collect();
        for line in text(tree, "modules.alias")?.lines() {
            if let Some((alias, module)) = line.strip_prefix("alias ").and_then(|rest| rest.split_once(' '))
                && wanted.contains(alias)
            {
                aliases.entry(alias.to_owned()).or_default().push(underscored(module.trim()));
            }
        }
        Ok(Self { modules, builtin, before, aliases })
    }

    /// Adds `driver` to `order`, after everything that must be loaded before it.
    fn require(&self, driver: &str, depth: usize, seen: &mut HashSet<String>, order: &mut Vec<String>) {
        let Some(module) = self.modules.get(driver) else { return };
        if depth > MAX_SOFT_DEPTH || seen.contains(&module.path) {
            return;
        }
        for path in module.needs.iter().rev().chain([&module.path]) {
            if !seen.insert(path.clone()) {
                continue;
            }
            for soft in self.before.get(&name(path)).into_iter().flatten() {
                self.require(&underscored(soft), depth + 1, seen, order);
                for other in self.aliases.get(soft).into_iter().flatten() {
                    self.require(other, depth + 1, seen, order);
                }
            }
            order.push(path.clone());
        }
    }
}

/// Reads an index; a missing one is empty.
fn text(tree: &Path, index: &str) -> Result<String, ModulesError> {
    let path = tree.join(index);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_INDEX).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(ModulesError::Io { path, source }),
    }
}

/// Checks that the path is that of a module below the tree.
fn checked(index: &'static str, path: &str) -> Result<String, ModulesError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.len() > 4096 || !plain {
        return Err(ModulesError::Stray { index, module: path.chars().take(200).collect() });
    }
    Ok(path.to_owned())
}

/// Returns the name of a module from its path: `kernel/fs/virtio-fs.ko.xz` is `virtio_fs`.
pub(crate) fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    underscored(file.split(".ko").next().unwrap_or(file))
}

/// Replaces `-` by `_`, which are equivalent in module names.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(dep: &str, builtin: &str, softdep: &str, alias: &str) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        for (name, text) in [("dep", dep), ("builtin", builtin), ("softdep", softdep), ("alias", alias)] {
            fs::write(temp.path().join(format!("modules.{name}")), text).unwrap();
        }
        for line in dep.lines() {
            let path = line.split(':').next().unwrap();
            if path.starts_with("k/") {
                let path = temp.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
        }
        temp
    }

    #[test]
    fn dependencies_come_first_and_built_in_drivers_not_at_all() {
        let tree = tree(
            "k/virtio_mmio.ko: k/virtio.ko k/virtio_ring.ko\nk/virtio_ring.ko:\nk/virtio.ko: k/virtio_ring.ko\n\
             k/virtio_blk.ko.xz: k/virtio.ko k/virtio_ring.ko\nk/virtio-console.ko: k/shared.ko k/virtio.ko k/virtio_ring.ko\nk/shared.ko:\n\
             k/ext4.ko: k/jbd2.ko\nk/jbd2.ko:\nk/crc32c_generic.ko:\nk/crc32c-intel.ko:\n\
             k/vmw_vsock_virtio_transport.ko: k/vsock.ko k/shared.ko\nk/vsock.ko:\n",
            "kernel/fs/overlayfs/overlay.ko\n",
            "softdep ext4 pre: crc32c post: other\n",
            "alias crc32c crc32c_generic\nalias crc32c crc32c_intel\nalias x y\n",
        );
        let boot = boot_modules(tree.path()).unwrap();
        let of = |driver: &str| {
            let (_, modules) = boot.drivers.iter().find(|(name, _)| *name == driver).expect(driver);
            modules.iter().map(String::as_str).collect::<Vec<_>>()
        };
        assert_eq!(
            boot.drivers.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["virtio_mmio", "ext4", "virtio_blk", "virtio_console", "vmw_vsock_virtio_transport"]
        );
        assert_eq!(of("virtio_mmio"), ["k/virtio_ring.ko", "k/virtio.ko", "k/virtio_mmio.ko"]);
        assert_eq!(of("ext4"), ["k/jbd2.ko", "k/crc32c_generic.ko", "k/crc32c-intel.ko", "k/ext4.ko"]);
        assert_eq!(of("virtio_blk"), ["k/virtio_blk.ko.xz"]);
        // A machine has one of the two, or both.
        assert_eq!(of("virtio_console"), ["k/shared.ko", "k/virtio-console.ko"]);
        assert_eq!(of("vmw_vsock_virtio_transport"), ["k/shared.ko", "k/vsock.ko", "k/vmw_vsock_virtio_transport.ko"]);
        let all = boot.all();
        assert_eq!(
            (all.len(), &all[9..]),
            (
                12,
                ["k/virtio-console.ko", "k/vsock.ko", "k/vmw_vsock_virtio_transport.ko"].map(str::to_owned).as_slice()
            )
        );
        assert_eq!(boot.missing, ["virtio_net"]);
        assert!(boot.virtio_mmio.unwrap().ends_with("k/virtio_mmio.ko"));
    }

    #[test]
    fn circles_end() {
        let tree = tree(
            "k/ext4.ko: k/a.ko k/ext4.ko\nk/a.ko: k/ext4.ko\n",
            "",
            "softdep ext4 pre: a\nsoftdep a pre: ext4\n",
            "",
        );
        assert_eq!(boot_modules(tree.path()).unwrap().all().len(), 2);
    }

    #[test]
    fn a_flood_of_modules_is_refused() {
        let needs: Vec<_> = (0..MAX_LOADED).map(|n| format!("k/m{n}.ko")).collect();
        let tree = tree(&format!("k/ext4.ko: {}\n", needs.join(" ")), "", "", "");
        assert!(matches!(boot_modules(tree.path()), Err(ModulesError::TooMany)));
    }

    #[test]
    fn indexes_cannot_lead_out_or_nowhere() {
        for dep in ["/etc/ext4.ko:\n", "k/ext4.ko: ../../x.ko\n", "gone/ext4.ko:\n", ": x\n"] {
            let tree = tree(dep, "", "", "");
            assert!(matches!(boot_modules(tree.path()), Err(ModulesError::Stray { .. })), "{dep:?}");
        }
    }

    #[test]
    fn a_kernel_without_indexes_has_nothing_to_load() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(boot_modules(temp.path()).unwrap().missing.len(), DRIVERS.len());
    }
}
