//! Work disks: clones of a formatted, empty template per size.

use super::{copy::clone_sparse, format};
use crate::{
    job::{Cancel, Cancelled, Job, Silent},
    program::ProgramError,
    publish::{PublishError, Shelf, is_full},
};
use banger_proto::size::ByteSize;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Smallest work disk: journal and tables must leave a guest something to write to.
pub const MIN_SIZE: ByteSize = ByteSize::mib(64);
/// Largest work disk.
pub const MAX_SIZE: ByteSize = ByteSize::gib(1024);
/// Step that sizes are rounded up to, in bytes, so that there are few templates.
const STEP: u64 = 1 << 20;
/// Prefix of the name of an incomplete disk.
const UNFINISHED: &str = ".unfinished-";

/// Error of creating a work disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The size is too small or too large.
    #[error("a work disk has {MIN_SIZE} to {MAX_SIZE}, not {0}")]
    Size(ByteSize),
    /// There is a file at its path.
    #[error("there is a file {} already", .0.display())]
    AlreadyExists(PathBuf),
    /// There is no room, or the user's quota is used up. Nothing was left behind.
    #[error("no space left for {}", path.display())]
    Full {
        /// File that was to be written.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The disk could not be written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// Path.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The template could not be formatted.
    #[error("cannot format a disk")]
    Format(#[source] ProgramError),
    /// The template could not be stored.
    #[error("cannot store a disk template")]
    Store(#[source] PublishError),
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Creates work disks. Keeps the templates, which can always be made again, in a cache directory.
#[derive(Debug, Clone)]
pub struct WorkDisks {
    templates: Shelf,
}

impl WorkDisks {
    /// Opens the cache `directory` and creates it (mode 0700) if it does not exist.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, DiskError> {
        Ok(Self { templates: Shelf::open(directory).map_err(store)? })
    }

    /// Creates an empty formatted disk of `size`, rounded up to whole MiB, at `path` (mode 0600), where no file may be.
    /// It appears complete or not at all. Returns its actual size.
    ///
    /// It is not synced, which would be most of the cost; [`sync`] does that, best while something else happens.
    pub fn create(&self, path: &Path, size: ByteSize, cancel: &Cancel) -> Result<ByteSize, DiskError> {
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
            return Err(DiskError::Size(size));
        }
        let size = size.bytes().next_multiple_of(STEP);
        let template = self.template(size, cancel)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let disk = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(directory)
            .map_err(|source| failed("create a file in", directory, source))?;
        let copied = clone_sparse(&template, disk.as_file(), &Job { progress: &Silent, cancel });
        cancel.check()?;
        copied.map_err(|source| failed("write", path, source))?;
        persist(disk, path)?;
        Ok(ByteSize(size))
    }

    /// Opens the formatted template of `size` bytes; creates it if it does not exist.
    fn template(&self, size: u64, cancel: &Cancel) -> Result<File, DiskError> {
        let name = format!("work-{}-{size}.ext4", format::VERSION);
        let path = self.templates.path(&name).map_err(store)?;
        if let Some(file) = open_complete(&path, size)? {
            return Ok(file);
        }
        let _lock = self.templates.lock(&name, cancel).map_err(store)?;
        if let Some(file) = open_complete(&path, size)? {
            return Ok(file);
        }
        let staged = self.templates.stage_file().map_err(store)?;
        staged.file().set_len(size).map_err(|source| failed("write", &path, source))?;
        format::format(staged.path(), size, cancel).map_err(|error| match error {
            ProgramError::Cancelled(cancelled) => DiskError::Cancelled(cancelled),
            error => DiskError::Format(error),
        })?;
        let file = staged.file().try_clone().map_err(|source| failed("open", &path, source))?;
        self.templates.publish_file(staged, &name).map_err(store)?;
        Ok(file)
    }
}

/// Syncs a new disk, the file and its name, so that it survives a crash of the host.
pub fn sync(path: &Path) -> Result<(), DiskError> {
    let synced = File::open(path).and_then(|disk| disk.sync_all()).and_then(|()| {
        let directory = path.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()
    });
    synced.map_err(|source| failed("sync", path, source))
}

/// Opens the template if it exists with its full length; an incomplete one is made again.
fn open_complete(path: &Path, size: u64) -> Result<Option<File>, DiskError> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((len, file)) => Ok((len == size).then_some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("open", path, source)),
    }
}

/// Gives the finished disk its name, unless the name is taken.
fn persist(disk: NamedTempFile, path: &Path) -> Result<(), DiskError> {
    match disk.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DiskError::AlreadyExists(path.to_owned()))
        }
        Err(error) => Err(failed("create", path, error.error)),
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> DiskError {
    let path = path.to_owned();
    if is_full(&source) { DiskError::Full { path, source } } else { DiskError::Io { what, path, source } }
}

fn store(error: PublishError) -> DiskError {
    match error {
        PublishError::Io { path, source, .. } if is_full(&source) => DiskError::Full { path, source },
        PublishError::Cancelled(cancelled) => DiskError::Cancelled(cancelled),
        error => DiskError::Store(error),
    }
}
