//! The working directory of a bootstrap, which needs over a gigabyte for a while and mounts the file systems that a
//! system being installed needs.
//!
//! The bootstrap is contained, and works in the directory of the image to be, which is removed with it. An ordinary
//! user's bootstrap runs as root of the user's subordinate ids. For a root user who cannot contain programs, such as a
//! container's, the bootstrap mounts nothing.

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

/// Name of the file with the apt sources.
const SOURCES: &str = "debian.sources";
/// The file with settings for apt.
const SETTINGS: &str = "apt.conf";
/// Where the new system is put together.
const TREE: &str = "tree";

/// Working directory of a bootstrap.
#[derive(Debug)]
pub(super) struct Site {
    directory: PathBuf,
    ids: Option<Ids>,
    contained: bool,
}

impl Site {
    /// Prepares one in `work` with this list of sources and these settings for apt, for root of these ids or for the
    /// present user. Both may contain passwords, so they are in files: arguments can be read by every user of the host.
    pub(super) fn prepare(
        work: &Path,
        sources: &str,
        settings: &str,
        ids: Option<Ids>,
        job: &Job<'_>,
    ) -> Result<Self, DebianError> {
        let directory = work.join("bootstrap");
        let tree = directory.join(TREE);
        // apt's user must get to what is in there, and the root of other ids must write there. Who else might is kept
        // off by the directories above.
        for (path, mode) in [(&directory, 0o755), (&tree, 0o1777)] {
            fs::create_dir(path).map_err(unwritten(path))?;
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(unwritten(path))?;
        }
        for (name, text) in [(SOURCES, sources), (SETTINGS, settings)] {
            let file = directory.join(name);
            fs::write(&file, text).map_err(unwritten(&file))?;
            fs::set_permissions(&file, Permissions::from_mode(0o644)).map_err(unwritten(&file))?;
        }
        let contained = ids.is_some() || Program::can_be_contained(&directory, job.cancel)?;
        Ok(Self { directory, ids, contained })
    }

    /// Path of the list of sources as the program sees it.
    pub(super) fn list(&self) -> PathBuf {
        self.seen().join(SOURCES)
    }

    /// The settings for apt as the program finds them.
    pub(super) fn settings(&self) -> PathBuf {
        self.seen().join(SETTINGS)
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
        // Its mounts would remain if it were killed.
        program.grouped().args([mode, "--skip=chroot/mount"])
    }

    /// Path of the directory as the program sees it.
    fn seen(&self) -> &Path {
        if self.contained { Path::new(CONTAINED) } else { &self.directory }
    }

    /// Removes everything that is no part of an image.
    pub(super) fn clear(self) -> Result<(), DebianError> {
        remove_any(&self.directory).map_err(unwritten(&self.directory))
    }
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> DebianError {
    move |source| DebianError::Write { path: path.to_owned(), source }
}
