//! Where a bootstrap works: it needs over a gigabyte for a while, and mounts what a system needs that is being installed.
//!
//! It is contained, and works in the directory of the image to be, which goes with whoever was at work on it. An ordinary
//! user's runs as root of the user's subordinate ids. Root who may contain nothing, such as a container's, gets a bootstrap
//! that mounts nothing.

use super::DebianError;
use crate::{
    job::Job,
    program::{CONTAINED, Ids, Program},
    publish::remove_any,
};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The file that tells where packages come from.
const SOURCES: &str = "debian.sources";
/// Where the new system is put together.
const TREE: &str = "tree";

/// Where a bootstrap works.
#[derive(Debug)]
pub(super) struct Site {
    directory: PathBuf,
    ids: Option<Ids>,
    contained: bool,
}

impl Site {
    /// One in `work`, with this list of sources, for root of these ids or for who this is.
    pub(super) fn prepare(work: &Path, sources: &str, ids: Option<Ids>, job: &Job<'_>) -> Result<Self, DebianError> {
        let directory = work.join("bootstrap");
        let tree = directory.join(TREE);
        let list = directory.join(SOURCES);
        // apt's user must get to what is in there, and the root of other ids must write there. Who else might is kept off
        // by the directories above.
        for (path, mode) in [(&directory, 0o755), (&tree, 0o1777)] {
            fs::create_dir(path).map_err(unwritten(path))?;
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(unwritten(path))?;
        }
        fs::write(&list, sources).map_err(unwritten(&list))?;
        fs::set_permissions(&list, Permissions::from_mode(0o644)).map_err(unwritten(&list))?;
        let contained = ids.is_some() || Program::can_be_contained(&directory, job.cancel)?;
        Ok(Self { directory, ids, contained })
    }

    /// The list of sources as the program finds it.
    pub(super) fn list(&self) -> PathBuf {
        self.seen().join(SOURCES)
    }

    /// Has `mmdebstrap` work here.
    pub(super) fn host(&self, program: Program) -> Program {
        let program = program.env("TMPDIR", self.seen().join(TREE));
        let mode = if self.ids.is_some() { "--mode=unshare" } else { "--mode=root" };
        let program = match self.ids {
            Some(ids) => program.as_root_of(ids),
            None => program,
        };
        if self.contained {
            return program.contained(&self.directory).arg(mode);
        }
        // What it mounts would stay, when it is killed.
        program.grouped().args([mode, "--skip=chroot/mount"])
    }

    /// The directory as the program finds it.
    fn seen(&self) -> &Path {
        if self.contained { Path::new(CONTAINED) } else { &self.directory }
    }

    /// Takes everything away that is no part of an image.
    pub(super) fn clear(self) -> Result<(), DebianError> {
        remove_any(&self.directory).map_err(unwritten(&self.directory))
    }
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> DebianError {
    move |source| DebianError::Write { path: path.to_owned(), source }
}
