//! Spool file for file contents until the tree is complete.
//!
//! Unrelated entries may come in any order and still have to give the same image. So contents are written, as they
//! arrive, to one unlinked file beside the image; nothing of it outlives the process, however that ends. The contents
//! of layers are not spooled: see [`super::content`].

use super::error::{EntryError, RootfsError};
use crate::job::Cancel;
use rustix::fs::{Mode, OFlags, open};
use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    ops::Deref,
    path::{Path, PathBuf},
};

/// Consecutive bytes of a file's content, and the file they are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Number of the file: [`SPOOL`], [`IMAGE`] or the number of another source.
    pub(super) source: u32,
    /// Offset in the file; for the image a byte offset within the allocatable blocks (see [`super::block_layout`]).
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Number of the spool itself among the sources.
pub(super) const SPOOL: u32 = 0;
/// Number of the image itself, whose contents are in their final blocks.
pub(super) const IMAGE: u32 = u32::MAX;

/// File that holds contents.
#[derive(Debug)]
pub(super) enum ContentSource {
    /// File that is open all the time.
    Open(File),
    /// File opened when it is read: there may be more of them than a process may have open.
    At(PathBuf),
}

/// [`ContentSource`] opened for reading.
pub(super) enum OpenSource<'a> {
    Borrowed(&'a File),
    Owned(File),
}

impl ContentSource {
    pub(super) fn open(&self) -> io::Result<OpenSource<'_>> {
        match self {
            Self::Open(file) => Ok(OpenSource::Borrowed(file)),
            Self::At(path) => open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
                .map(|file| OpenSource::Owned(file.into()))
                .map_err(|error| {
                    let error = io::Error::from(error);
                    io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
                }),
        }
    }
}

impl Deref for OpenSource<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Borrowed(file) => file,
            Self::Owned(file) => file,
        }
    }
}

/// Size of a chunk of content; between two chunks the job may be cancelled.
const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    len: u64,
    limit: u64,
    chunk: Vec<u8>,
}

impl Spool {
    /// Creates a spool on the filesystem of `dir` that refuses to hold more than `limit` bytes.
    pub(super) fn new(dir: &Path, limit: u64) -> Result<Self, RootfsError> {
        let file = tempfile::tempfile_in(dir).map_err(RootfsError::io("make a spool file"))?;
        Ok(Self { file: BufWriter::with_capacity(CHUNK, file), len: 0, limit, chunk: vec![0; CHUNK] })
    }

    /// Appends exactly `size` bytes of `content`, which belong to the entry `path`.
    pub(super) fn take(
        &mut self,
        path: &[u8],
        size: u64,
        content: &mut dyn Read,
        cancel: &Cancel,
    ) -> Result<Segment, RootfsError> {
        if size > self.limit - self.len {
            return Err(RootfsError::TooManyBytes(self.limit));
        }
        let segment = Segment { source: SPOOL, offset: self.len, len: size };
        let mut left = size;
        while left > 0 {
            cancel.check()?;
            let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let got = match content.read(&mut self.chunk[..want]) {
                Ok(0) => return Err(RootfsError::entry(path, EntryError::Short { got: size - left, size })),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(RootfsError::Io { what: "read the content of an entry", source: error }),
            };
            self.file.write_all(&self.chunk[..got]).map_err(RootfsError::io("write the spool file"))?;
            self.len += got as u64;
            left -= got as u64;
        }
        Ok(segment)
    }

    /// Returns the file, with everything written so far.
    pub(super) fn flushed(&mut self) -> Result<&File, RootfsError> {
        self.file.flush().map_err(RootfsError::io("write the spool file"))?;
        Ok(self.file.get_ref())
    }

    /// Returns the file that holds the segments, with everything written.
    pub(super) fn into_file(self) -> Result<File, RootfsError> {
        self.file
            .into_inner()
            .map_err(|error| RootfsError::Io { what: "write the spool file", source: error.into_error() })
    }
}
