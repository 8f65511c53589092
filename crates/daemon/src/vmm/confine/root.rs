//! A root of the monitor's own: an empty read-only tmpfs with what the rules name, each at its name, and nothing else.
//!
//! [`Root::prepare`] does all that needs memory; [`Root::enter`] makes system calls only. Descriptors the monitor
//! inherits have names in [`DESCRIPTORS`]: QEMU takes guest memory by path only.

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

/// Where the monitor's descriptors have names.
pub(super) const DESCRIPTORS: &str = "/fd";
/// Where the host's root is while the new one is filled.
const OLD: &CStr = c"/old";
/// A directory every host has, for the new root to be mounted on; only covered until the new root is the root.
const STAGE: &CStr = c"/proc";
/// Room for directories and mount points, not for content.
const OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=512";

/// One file or directory.
#[derive(Debug)]
struct Bind {
    /// Its name below [`OLD`].
    source: CString,
    /// Its name in the new root.
    target: CString,
    is_dir: bool,
    attributes: u64,
}

/// What is put where.
#[derive(Debug)]
pub(in crate::vmm) struct Root {
    /// Parents first.
    dirs: Vec<CString>,
    binds: Vec<Bind>,
}

impl Root {
    /// Looks at everything and works out the calls. What is not there is left out.
    pub(super) fn prepare(entries: &[Entry]) -> io::Result<Self> {
        let descriptors = Bind {
            source: below_old(Path::new("/proc/self/fd"))?,
            target: c_string(Path::new(DESCRIPTORS))?,
            is_dir: true,
            // No read-only: memory is opened for writing by its name here.
            attributes: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        };
        let mut dirs = BTreeSet::from([PathBuf::from(DESCRIPTORS)]);
        let mut binds = vec![descriptors];
        let mut taken: Vec<(&Path, bool)> = Vec::new();
        for entry in entries {
            // In full, so that no link has to be followed from a root that is not the link's.
            let Ok(source) = fs::canonicalize(&entry.path) else { continue };
            let kind = fs::metadata(&source)?.file_type();
            // What is in a directory that is already there needs no mount of its own.
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

    /// Makes the root and moves into it. The calling process must be in a mount namespace of its own, where it may mount,
    /// and the only one there. Allocates nothing.
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

/// How it is mounted. Libraries and programs are mapped as code, which a mount can forbid; devices are opened as such.
fn attributes(reach: Reach, is_device: bool) -> u64 {
    let nodev = if is_device { 0 } else { libc::MOUNT_ATTR_NODEV };
    let other = match reach {
        Reach::Read => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC,
        Reach::Library | Reach::Execute => libc::MOUNT_ATTR_RDONLY,
        Reach::Write | Reach::Device | Reach::Sockets => libc::MOUNT_ATTR_NOEXEC,
    };
    libc::MOUNT_ATTR_NOSUID | nodev | other
}

/// Adds attributes to a mount, and to those below it.
fn restrict(target: &CStr, attributes: u64, below: bool) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr(2) reads a path that ends with a NUL and a record of the size it is told; both live until it
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
