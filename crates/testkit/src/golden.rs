//! The real kernel and image, pulled once by the real product and shared by every test.
//!
//! They are kept in the user's cache directory, one directory per state of the code that makes them, so that a change
//! of the catalog or of a writer is tested on fresh files while everything else costs no pull. A test's home gets the
//! big files as hard links: both are immutable by contract, and a test that damages one copies it first.

use crate::{TestEnv, binaries::repository};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

/// The kernel a golden home holds.
pub(crate) const KERNEL: &str = "debian-6.1";
/// The image a golden home holds.
pub(crate) const IMAGE: &str = "debian-bookworm";
/// Paths that determine the content of a golden home, relative to the repository.
const INPUTS: [&str; 3] = ["crates/artifacts/src", "crates/artifacts/catalogs", "crates/daemon/src/store"];
/// Timeout of a pull: a slow mirror, two cores, a debug build.
const PULL: Duration = Duration::from_secs(20 * 60);
/// Number of golden homes of other states of the code that are kept.
const KEPT: usize = 2;

/// Home with the default kernel and image, and no VM.
#[derive(Debug, Clone)]
pub struct Golden {
    state: PathBuf,
}

impl Golden {
    /// Returns the golden home of this state of the code, made when it is missing. `None`, with the test recorded as
    /// skipped, on a host that cannot make one.
    #[track_caller]
    pub fn get() -> Option<Self> {
        static GOLDEN: OnceLock<Result<Golden, String>> = OnceLock::new();
        let cached = || {
            let home = cache_dir().join(key());
            home.join("ready").is_file().then(|| Self { state: home.join("state") })
        };
        if GOLDEN.get().is_none() && cached().is_none() && !crate::require("apt") {
            return None;
        }
        let golden = GOLDEN.get_or_init(|| {
            // The first failure counts for the whole run, so that twenty tests do not each wait for a dead mirror.
            std::panic::catch_unwind(|| cached().unwrap_or_else(Self::make)).map_err(|panic| {
                panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "the golden home could not be made".into())
            })
        });
        Some(golden.clone().unwrap_or_else(|error| panic!("no golden home: {error}")))
    }

    /// Pulls kernel and image, under a lock that other test programs wait for.
    fn make() -> Self {
        let cache = cache_dir();
        std::fs::create_dir_all(&cache).expect("the cache directory");
        let lock = File::create(cache.join("lock")).expect("the cache's lock");
        lock.lock().expect("the cache's lock");
        let home = cache.join(key());
        if !home.join("ready").is_file() {
            let env = TestEnv::empty();
            for (group, name) in [("kernel", KERNEL), ("image", IMAGE)] {
                let pulled = env.banger([group, "pull", name]).patience(PULL).run().expect(0);
                eprintln!("golden home: {group} {name} pulled in {:.1} s", pulled.elapsed.as_secs_f32());
            }
            env.assert_nothing_left();
            make_room(&cache);
            // Made under another name and renamed, so that a directory with the key's name is complete.
            std::fs::write(env.home().join("ready"), "").expect("the mark of a whole golden home");
            std::fs::rename(env.home(), &home).expect("the golden home gets its name");
            std::fs::create_dir(env.home()).expect("the test's home is removed at its end");
        }
        Self { state: home.join("state") }
    }

    /// Adds the kernel and the image to a test's home.
    #[track_caller]
    pub(crate) fn furnish(&self, layout: &banger_proto::layout::Layout) {
        furnish(&self.state, &layout.state).unwrap_or_else(|error| panic!("furnishing {layout:?}: {error}"));
    }

    /// Adds the kernel and the image to the home of another user.
    #[track_caller]
    pub(crate) fn furnish_for(&self, layout: &banger_proto::layout::Layout, uid: u32) {
        furnish_for(&self.state, &layout.state, uid).unwrap_or_else(|error| panic!("furnishing {layout:?}: {error}"));
    }
}

/// Copies the files for `uid`, and links the images' files, which everybody may read.
fn furnish_for(from: &Path, to: &Path, uid: u32) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    std::os::unix::fs::lchown(to, Some(uid), Some(uid))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let (kind, name) = (entry.file_type()?, entry.file_name());
        if kind.is_dir() {
            if name != "vms" {
                furnish_for(&source, &target, uid)?;
            }
            continue;
        }
        let is_image = name == "rootfs.ext4";
        if is_image && std::fs::hard_link(&source, &target).is_ok() {
            continue;
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else if name != "bangerd.lock" {
            std::fs::copy(&source, &target)?;
        } else {
            continue;
        }
        std::os::unix::fs::lchown(&target, Some(uid), Some(uid))?;
    }
    Ok(())
}

/// Directory of golden homes and tests' homes.
pub(crate) fn cache_dir() -> PathBuf {
    let from = |key: &str| std::env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
    from("XDG_CACHE_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".cache")))
        .expect("HOME or XDG_CACHE_HOME is set")
        .join("banger-tests")
}

/// Links the immutable files, copies the others, and leaves out a daemon's runtime files.
fn furnish(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let (source, target) = (entry.path(), to.join(&name));
        match name.to_str() {
            Some("kernels" | "images") => link_tree(&source, &target)?,
            Some(name) if name.starts_with("state.db") => drop(std::fs::copy(&source, &target)?),
            _ => {}
        }
    }
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else {
            // A hard link to a symbolic link is a symbolic link, so links inside a module tree survive.
            std::fs::hard_link(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Removes the oldest golden homes of other states of the code. Only names chosen by this module are touched.
fn make_room(cache: &Path) {
    let mut goldens: Vec<_> = std::fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    goldens.sort();
    let surplus = goldens.len().saturating_sub(KEPT);
    for (_, golden) in &goldens[..surplus] {
        let _ = std::fs::remove_dir_all(golden);
    }
}

/// Hashes the state of everything in [`INPUTS`].
fn key() -> String {
    let repository = repository();
    let mut files = Vec::new();
    for input in INPUTS {
        collect(&repository.join(input), &mut files);
        collect(&repository.join(input).with_extension("rs"), &mut files);
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let name = file.strip_prefix(&repository).expect("below the repository");
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    let digest = hash.finalize();
    format!("{:016x}", digest[..8].iter().fold(0_u64, |key, byte| key << 8 | u64::from(*byte)))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_path_buf());
    } else if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory of the repository").flatten() {
            collect(&entry.path(), files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_stable() {
        assert_eq!(key(), key());
        assert_eq!(key().len(), 16);
    }

    #[test]
    fn only_what_is_immutable_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("kernels/k")).unwrap();
        std::fs::create_dir_all(from.join("vms/v")).unwrap();
        for file in ["kernels/k/vmlinux", "state.db", "bangerd.lock", "vms/v/disk"] {
            std::fs::write(from.join(file), file).unwrap();
        }
        furnish(&from, &to).unwrap();
        let inode = |path: PathBuf| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        assert_eq!(inode(from.join("kernels/k/vmlinux")), inode(to.join("kernels/k/vmlinux")));
        assert_ne!(inode(from.join("state.db")), inode(to.join("state.db")));
        assert!(!to.join("bangerd.lock").exists() && !to.join("vms").exists());
    }
}
