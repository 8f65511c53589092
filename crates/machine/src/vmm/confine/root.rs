//! A private root for the VMM: an empty read-only tmpfs in which only the files of the rules are mounted, each under
//! its name.
//!
//! [`Root::prepare`] does everything that allocates; [`Root::enter`] only makes system calls. The descriptors the VMM
//! inherits have names in [`DESCRIPTORS`], because QEMU takes guest memory by path only.

#![expect(unsafe_code, reason = "mount calls that have no wrapper that can run between fork and exec")]

use super::{Entry, Reach};
use rustix::{
    fs::{Mode, OFlags, mkdir, open},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount},
    process::{chdir, pivot_root, umask},
};
use std::{
    collections::BTreeSet,
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

/// Directory in which the VMM's descriptors have names.
pub(super) const DESCRIPTORS: &str = "/fd";
/// Mount point of the host's root while the new one is filled.
const OLD: &CStr = c"/old";
/// A directory that exists on every host, over which the new root is mounted; it is covered only until the new root
/// takes effect.
const STAGE: &CStr = c"/proc";
/// Enough for directories and mount points; no file content is stored there.
const OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=512";

/// A bind mount of one file or directory.
#[derive(Debug)]
struct Bind {
    /// Path of the source, below [`OLD`].
    source: CString,
    /// Path in the new root.
    target: CString,
    is_dir: bool,
    attributes: u64,
}

/// Directories and bind mounts that make up the root.
#[derive(Debug)]
pub(in crate::vmm) struct Root {
    /// Directories to create, parents first.
    dirs: Vec<CString>,
    binds: Vec<Bind>,
}

impl Root {
    /// Inspects the files and prepares all calls. Missing files are skipped.
    pub(super) fn prepare(entries: &[Entry]) -> io::Result<Self> {
        let descriptors = Bind {
            source: below_old(Path::new("/proc/self/fd"))?,
            target: c_string(Path::new(DESCRIPTORS))?,
            is_dir: true,
            // Not read-only: guest memory is opened for writing by its name here.
            attributes: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        };
        let mut dirs = BTreeSet::from([PathBuf::from(DESCRIPTORS)]);
        let mut binds = vec![descriptors];
        let mut taken: Vec<(&Path, bool)> = Vec::new();
        for entry in entries {
            // Resolved completely, because a symbolic link would be followed from the wrong root.
            let Ok(source) = fs::canonicalize(&entry.path) else { continue };
            let kind = fs::metadata(&source)?.file_type();
            // Entries inside a directory that is already mounted need no mount of their own.
            if taken.iter().any(|(dir, is_dir)| *dir == entry.inside || *is_dir && entry.inside.starts_with(dir)) {
                continue;
            }
            taken.push((&entry.inside, kind.is_dir()));
            dirs.extend(entry.inside.ancestors().skip(usize::from(!kind.is_dir())).map(Path::to_owned));
            binds.push(Bind {
                source: below_old(&source)?,
                target: c_string(&entry.inside)?,
                is_dir: kind.is_dir(),
                attributes: attributes(entry.reach, kind.is_char_device()),
            });
        }
        dirs.remove(Path::new("/"));
        let dirs = dirs.iter().map(|dir| c_string(dir)).collect::<io::Result<_>>()?;
        Ok(Self { dirs, binds })
    }

    /// Creates the root and moves into it. The calling process must be alone in a mount namespace in which it may
    /// mount. Does not allocate.
    pub(in crate::vmm) fn enter(&self) -> io::Result<()> {
        umask(Mode::empty());
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"banger", STAGE, c"tmpfs", flags, Some(OPTIONS))?;
        chdir(STAGE)?;
        mkdir(c"old", Mode::RWXU)?;
        pivot_root(c".", c"old")?;
        chdir(c"/")?;
        let mode = Mode::from_raw_mode(0o755);
        for dir in &self.dirs {
            mkdir(dir.as_c_str(), mode)?;
        }
        for bind in &self.binds {
            if !bind.is_dir {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                drop(open(bind.target.as_c_str(), flags, Mode::RUSR)?);
            }
            mount_bind_recursive(bind.source.as_c_str(), bind.target.as_c_str())?;
            restrict(&bind.target, bind.attributes, bind.is_dir)?;
        }
        unmount(OLD, UnmountFlags::DETACH)?;
        rustix::fs::unlinkat(rustix::fs::CWD, OLD, rustix::fs::AtFlags::REMOVEDIR)?;
        restrict(c"/", libc::MOUNT_ATTR_RDONLY, false)
    }
}

/// Mount attributes of an entry. A `noexec` mount forbids mapping as code, so libraries and programs are without; a
/// `nodev` mount forbids opening devices.
fn attributes(reach: Reach, is_device: bool) -> u64 {
    let nodev = if is_device { 0 } else { libc::MOUNT_ATTR_NODEV };
    let other = match reach {
        Reach::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC,
        Reach::Library | Reach::Execute => libc::MOUNT_ATTR_RDONLY,
        Reach::Write | Reach::Device | Reach::Sockets => libc::MOUNT_ATTR_NOEXEC,
    };
    libc::MOUNT_ATTR_NOSUID | nodev | other
}

/// Adds attributes to a mount; with `below`, also to the mounts below it.
fn restrict(target: &CStr, attributes: u64, below: bool) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr(2) reads a NUL-terminated path and a struct of the size it is told; both live until it
    // returns.
    let result = unsafe {
        let (target, change) = (target.as_ptr(), &raw const change);
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, target, flags, change, size_of::<libc::mount_attr>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn below_old(path: &Path) -> io::Result<CString> {
    let mut bytes = OLD.to_bytes().to_vec();
    bytes.extend(path.as_os_str().as_bytes());
    CString::new(bytes).map_err(|_| Errno::INVAL.into())
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, inside: &str) -> Entry {
        Entry { path: path.into(), inside: inside.into(), reach: Reach::Read }
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_nothing_is_mounted_twice() {
        let entries = [
            entry("/usr/share", "/a/share"),
            entry("/usr/share/doc", "/a/share/doc"),
            entry("/etc/passwd", "/a/b/passwd"),
            entry("/etc/passwd", "/a/b/passwd"),
            entry("/nonexistent", "/c"),
        ];
        let root = Root::prepare(&entries).unwrap();
        assert_eq!(root.dirs, [c"/a", c"/a/b", c"/a/share", c"/fd"]);
        let targets: Vec<&CStr> = root.binds.iter().map(|bind| bind.target.as_c_str()).collect();
        assert_eq!(targets, [c"/fd", c"/a/share", c"/a/b/passwd"]);
        assert_eq!(root.binds[2].source.as_c_str(), c"/old/etc/passwd");
    }
}
