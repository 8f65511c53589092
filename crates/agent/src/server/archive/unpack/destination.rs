//! The name in the file system that an archive entry is written to, and what happens to an existing file there.

use super::{super::keep_mtime::ReplacedFile, OverwritePolicy};
use crate::checkout_dirs;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{self, AtFlags, Timespec, Timestamps},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io,
    rc::Rc,
};

/// An existing file that a hard link will name.
pub(super) struct LinkSource {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
    /// Device and inode number.
    pub(super) inode: (u64, u64),
}

/// The name that an entry is written to.
pub(super) struct Destination<'a> {
    pub(super) parent: Rc<OwnedFd>,
    /// Whether the parent is set-group-id, so that new files get its group.
    pub(super) gives_group: bool,
    pub(super) name: &'a OsStr,
    pub(super) policy: OverwritePolicy,
    /// Whether the path is in a `.git` directory; no build reads modification times there.
    pub(super) of_git: bool,
    /// Modification time in the archive.
    pub(super) mtime: Timespec,
}

impl Destination<'_> {
    /// Removes the existing file. A directory is removed with its content under [`OverwritePolicy::Replace`], and only
    /// when it is empty under [`OverwritePolicy::Merge`].
    pub(super) fn clear(&self) -> io::Result<()> {
        match fs::unlinkat(&*self.parent, self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) if self.policy == OverwritePolicy::Replace => {
                checkout_dirs::clear(self.parent.as_fd(), self.name)
            }
            Err(Errno::ISDIR) => Ok(fs::unlinkat(&*self.parent, self.name, AtFlags::REMOVEDIR)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Hard-links `source` here, unless this is already a name of it.
    pub(super) fn link(&self, source: &LinkSource) -> io::Result<()> {
        let link = || fs::linkat(&source.dir, &source.name, &*self.parent, self.name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {}
            made => return Ok(made?),
        }
        let there = fs::statat(&*self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (there.st_dev, there.st_ino) != source.inode {
            self.clear()?;
            link()?;
        }
        Ok(())
    }

    /// Returns the existing file if it may be identical to an arriving one of `size` bytes.
    pub(super) fn replaced(&self, size: u64) -> Option<ReplacedFile> {
        let counts = self.policy == OverwritePolicy::Replace && !self.of_git;
        counts.then(|| ReplacedFile::find(self.parent.as_fd(), self.name, size)).flatten()
    }

    /// Whether a symbolic link to `target` is there already and may stay.
    pub(super) fn has_link(&self, target: &[u8]) -> bool {
        let there = || fs::readlinkat(&*self.parent, self.name, Vec::new());
        self.policy == OverwritePolicy::Replace && there().is_ok_and(|found| found.as_bytes() == target)
    }

    /// Returns the times to set: the archive's under [`OverwritePolicy::Merge`], else none, so that the file keeps the
    /// time of its creation.
    pub(super) fn times(&self) -> Option<Timestamps> {
        let given = Timestamps { last_access: self.mtime, last_modification: self.mtime };
        (self.policy == OverwritePolicy::Merge).then_some(given)
    }
}
