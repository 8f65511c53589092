//! Where file contents wait until the tree is complete.
//!
//! Unrelated entries may come in any order and give the same image all the same. So contents go, as they come, into one
//! unlinked file beside the image; nothing of it outlives the process, whatever ends it. Those of layers do not come
//! here: see [`super::content`].

use super::error::{EntryError, RootfsError};
use crate::job::Cancel;
use rustix::fs::{Mode, OFlags, open};
use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    ops::Deref,
    path::{Path, PathBuf},
};

/// Where one file's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// In which file: [`SPOOL`], [`IMAGE`], or another with that number.
    pub(super) source: u32,
    /// Where in it; in the image as [`super::block_layout`] counts, from the beginning of the first block that is for anything.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The spool itself, among the files contents lie in.
pub(super) const SPOOL: u32 = 0;
/// The image itself, where the content has its final place already.
pub(super) const IMAGE: u32 = u32::MAX;

/// A file contents lie in.
#[derive(Debug)]
pub(super) enum ContentSource {
    /// Open all the time.
    Open(File),
    /// OpenSource when it is read: there may be more of them than a process may have open.
    At(PathBuf),
}

/// An [`ContentSource`] for as long as it is read.
pub(super) enum OpenSource<'a> {
    Kept(&'a File),
    Now(File),
}

impl ContentSource {
    pub(super) fn open(&self) -> io::Result<OpenSource<'_>> {
        match self {
            Self::Open(file) => Ok(OpenSource::Kept(file)),
            Self::At(path) => open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
                .map(|file| OpenSource::Now(file.into()))
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
            Self::Kept(file) => file,
            Self::Now(file) => file,
        }
    }
}

/// Content is moved in pieces of this many bytes; between two the job may be cancelled.
const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    len: u64,
    limit: u64,
    chunk: Vec<u8>,
}

impl Spool {
    /// A spool on the filesystem of `dir` that refuses to hold more than `limit` bytes.
    pub(super) fn new(dir: &Path, limit: u64) -> Result<Self, RootfsError> {
        let file = tempfile::tempfile_in(dir).map_err(RootfsError::io("make a spool file"))?;
        Ok(Self { file: BufWriter::with_capacity(CHUNK, file), len: 0, limit, chunk: vec![0; CHUNK] })
    }

    /// Takes exactly `size` bytes from `content`, which belong to the entry `path`.
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

    /// The file, with everything written so far.
    pub(super) fn flushed(&mut self) -> Result<&File, RootfsError> {
        self.file.flush().map_err(RootfsError::io("write the spool file"))?;
        Ok(self.file.get_ref())
    }

    /// The file the segments lie in, everything written.
    pub(super) fn into_file(self) -> Result<File, RootfsError> {
        self.file
            .into_inner()
            .map_err(|error| RootfsError::Io { what: "write the spool file", source: error.into_error() })
    }
}
