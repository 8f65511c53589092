//! Where a bootstrap works: it needs over a gigabyte for a while, and mounts what a system needs that is being installed.
//!
//! Root's is contained and works in the directory of the image to be, which goes with whoever was at work on it. What an
//! ordinary user's makes belongs to the user's subordinate ids, which get into nothing of the user's and whose files only
//! `mmdebstrap` can delete: it works where everybody may, is told that it is to end, and is given the time to tidy up.

use super::DebianError;
use crate::{
    job::Job,
    program::{CONTAINED, Program},
};
use rustix::process::geteuid;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The file that tells where packages come from.
const SOURCES: &str = "debian.sources";
/// What tidying up may take: 3 to 10 s on a busy machine. Killed in the middle, it would leave hundreds of megabytes.
const GRACE: Duration = Duration::from_secs(60);

/// Where a bootstrap works.
#[derive(Debug)]
pub(super) struct Site {
    /// The list of sources.
    list: PathBuf,
    /// The directory it is contained to, if it is.
    own: Option<PathBuf>,
}

impl Site {
    /// One in `work`, with this list of sources.
    pub(super) fn prepare(work: &Path, sources: &str, job: &Job<'_>) -> Result<Self, DebianError> {
        let own = if geteuid().is_root() { contained(work, job)? } else { None };
        let list = own.as_deref().unwrap_or(work).join(SOURCES);
        fs::write(&list, sources).map_err(unwritten(&list))?;
        Ok(Self { list, own })
    }

    /// The list of sources as the program finds it.
    pub(super) fn list(&self) -> PathBuf {
        if self.own.is_some() { Path::new(CONTAINED).join(SOURCES) } else { self.list.clone() }
    }

    /// Has the program work here.
    pub(super) fn host(&self, program: Program) -> Program {
        match &self.own {
            Some(own) => program.contained(own).env("TMPDIR", CONTAINED),
            None => program.tidied().grace(GRACE).env("TMPDIR", temporary_directory()),
        }
    }

    /// Takes everything away that is no part of an image.
    pub(super) fn clear(self) -> Result<(), DebianError> {
        match self.own {
            Some(own) => fs::remove_dir_all(&own).map_err(unwritten(&own)),
            None => fs::remove_file(&self.list).map_err(unwritten(&self.list)),
        }
    }
}

/// A directory in `work` that root's bootstrap can be contained to; a container's root may not contain anything.
fn contained(work: &Path, job: &Job<'_>) -> Result<Option<PathBuf>, DebianError> {
    let own = work.join("bootstrap");
    fs::create_dir(&own).map_err(unwritten(&own))?;
    // apt's user must get to what is in there.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).map_err(unwritten(&own))?;
    if Program::can_be_contained(&own, job.cancel)? {
        return Ok(Some(own));
    }
    fs::remove_dir(&own).map_err(unwritten(&own))?;
    Ok(None)
}

/// Where everybody may put files: `/var/tmp` is on a disk where `/tmp` often is memory.
fn temporary_directory() -> PathBuf {
    std::env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute()).unwrap_or_else(|| "/var/tmp".into())
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> DebianError {
    move |source| DebianError::Write { path: path.to_owned(), source }
}
