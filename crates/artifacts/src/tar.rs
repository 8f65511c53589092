//! Bounded reader of tar streams: ustar, GNU long names, PAX. All archives are read by it: layers, bundles, packages,
//! and what holds images.
//!
//! Decides what an archive may say and refuses to touch a filesystem; what an entry's path may be, and what becomes of
//! an entry, is for its users to decide. Header fields are read with the `tar` crate's
//! types. The walk itself is our own, because that crate splits PAX records at line feeds (and so cuts a binary
//! `security.capability` that contains one) and reads extension headers of any size into memory. An archive must end
//! with its end marker: a stream that was cut at an entry's boundary is an error.

mod error;
mod pax;

use crate::rootfs::{Meta, Node, Timestamp, Xattr};
use ::tar::{EntryType, Header};
pub use error::{Limits, TarError};
use pax::Overrides;
use std::io::{self, BufRead, Read};

/// Block size of tar: headers and padding come in blocks of this many bytes.
const BLOCK: usize = 512;
/// Longest extension header (PAX records or a GNU long name), in bytes.
const EXTENSION_MAX: u64 = 1 << 20;
/// Upper bound of the extension headers before one entry; writers make three.
const EXTENSIONS_MAX: u32 = 64;

/// Entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path as the archive has it; not checked yet.
    pub path: Vec<u8>,
    /// Type of the entry, with what belongs to it.
    pub kind: EntryKind,
    /// Owner, mode, time and attributes.
    pub meta: Meta,
    /// Bytes of content; zero for everything but files.
    pub size: u64,
}

/// Type of an archive entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A hard link with the path of its target.
    HardLink(Vec<u8>),
    /// A device or fifo.
    Node(Node),
}

/// Reads an archive entry by entry. Between two calls of [`Reader::next_entry`], reading from it yields the content of
/// the entry.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// Unread content of the current entry, and the padding after it, in bytes.
    left: u64,
    padding: u64,
    entries: u64,
    content_bytes: u64,
    limits: Limits,
    /// Whether the end of the stream ends the archive without an end marker.
    open_ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads `input` and fails beyond `limits.entries` or `limits.bytes`, which include extension headers.
    pub fn new(input: R, limits: Limits) -> Self {
        Self { input, offset: 0, left: 0, padding: 0, entries: 0, content_bytes: 0, limits, open_ended: false }
    }

    /// Accepts an archive without its end marker: for streams whose digest shows whether they were cut.
    #[must_use]
    pub fn open_ended(mut self) -> Self {
        self.open_ended = true;
        self
    }

    /// Returns how many bytes of the stream were read: after [`Self::next_entry`], where the entry's content begins.
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// Returns the input, at the current position.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Returns the next entry; `None` at the end of the archive. Unread content of the current entry is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip()?;
        let mut overrides = Overrides::default();
        for _ in 0..=EXTENSIONS_MAX {
            let Some(header) = self.header()? else {
                return if overrides.is_empty() {
                    Ok(None)
                } else {
                    Err(self.damaged("it ends after an extension header"))
                };
            };
            let size = self.number(&header.as_old().size, "a size is not a number")?;
            let size = u64::try_from(size).map_err(|_| self.damaged("a size is negative"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    overrides.records(&records).map_err(|what| self.damaged(what))?;
                }
                EntryType::GNULongName => overrides.path = Some(until_zero(self.extension(size)?)),
                EntryType::GNULongLink => overrides.link = Some(until_zero(self.extension(size)?)),
                EntryType::XGlobalHeader => {
                    let records = self.extension(size)?;
                    // Comments (git stores the commit there) are harmless; anything that changes entries is not.
                    let mut global = Overrides::default();
                    global.records(&records).map_err(|what| self.damaged(what))?;
                    if !global.is_empty() {
                        return Err(self.damaged("a global PAX header changes entries"));
                    }
                }
                _ => return self.entry(&header, size, overrides).map(Some),
            }
        }
        Err(self.damaged("an entry has more extension headers than any needs"))
    }

    /// Assembles an entry and prepares for reading its content.
    fn entry(&mut self, header: &Header, size: u64, overrides: Overrides) -> Result<Entry, TarError> {
        let path = overrides.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            let in_header = || header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
            overrides.link.clone().unwrap_or_else(in_header)
        };
        if overrides.sparse {
            return Err(unsupported(path, "sparse file in PAX form"));
        }
        let kind = match header.entry_type() {
            EntryType::Directory => EntryKind::Dir,
            // Archives older than the directory type mark a directory by a slash at the end.
            EntryType::Regular if header.as_old().linkflag[0] == 0 && path.ends_with(b"/") => EntryKind::Dir,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Symlink => EntryKind::Symlink(link()),
            EntryType::Link => EntryKind::HardLink(link()),
            EntryType::Char => {
                let (major, minor) = self.device(header)?;
                EntryKind::Node(Node::CharDevice { major, minor })
            }
            EntryType::Block => {
                let (major, minor) = self.device(header)?;
                EntryKind::Node(Node::BlockDevice { major, minor })
            }
            EntryType::Fifo => EntryKind::Node(Node::Fifo),
            EntryType::GNUSparse => {
                return Err(unsupported(path, "sparse file in GNU form"));
            }
            _ => return Err(unsupported(path, "file of an unknown type")),
        };
        // Only files have content, whatever the size field of other entries says.
        let size = if kind == EntryKind::File { overrides.size.unwrap_or(size) } else { 0 };
        self.count(size)?;
        let old = header.as_old();
        let id = |given: Option<u64>, field: &[u8], what| match given {
            Some(id) => u32::try_from(id).map_err(|_| self.damaged(what)),
            None => self.number(field, what).and_then(|id| u32::try_from(id).map_err(|_| self.damaged(what))),
        };
        let meta = Meta {
            // Some archives keep type bits in the mode; they are ignored.
            mode: u16::try_from(self.number(&old.mode, "a mode is not a number")? & 0o7777).expect("twelve bits"),
            uid: id(overrides.uid, &old.uid, "an owner is not a 32-bit number")?,
            gid: id(overrides.gid, &old.gid, "a group is not a 32-bit number")?,
            mtime: match overrides.mtime {
                Some(mtime) => mtime,
                None => Timestamp::from_secs(self.number(&old.mtime, "a time is not a number")?),
            },
            xattrs: overrides.xattrs,
        };
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(Entry { path, kind, meta, size })
    }

    fn count(&mut self, size: u64) -> Result<(), TarError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(TarError::TooManyEntries(self.limits.entries));
        }
        self.take(size)
    }

    /// Counts bytes other than the headers of entries.
    fn take(&mut self, bytes: u64) -> Result<(), TarError> {
        self.content_bytes = self.content_bytes.saturating_add(bytes);
        if self.content_bytes > self.limits.bytes {
            return Err(TarError::TooManyBytes(self.limits.bytes));
        }
        Ok(())
    }

    /// Returns the next header block, whose checksum is verified; `None` at the end marker.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        match self.input.read(&mut block) {
            Ok(0) if self.open_ended => return Ok(None),
            Ok(0) => return Err(self.damaged("it ends without an end marker")),
            Ok(got) => self.fill(&mut block[got..])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.fill(&mut block)?,
            Err(error) => return Err(TarError::Io(error)),
        }
        self.offset += BLOCK as u64;
        if block.iter().all(|&byte| byte == 0) {
            return self.end_marker().map(|()| None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let stored = self.number(&header.as_old().cksum, "a header has no checksum")?;
        let spaces = u32::from(b' ') * 8;
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|&byte| u32::from(byte)).sum();
        if stored != i64::from(sum + spaces) {
            return Err(self.damaged("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads the second of the end marker's two blocks, if there is more input at all. Content behind a lone block of
    /// zeros would be seen by some readers and not by others, so it is refused.
    fn end_marker(&mut self) -> Result<(), TarError> {
        let (mut block, mut have) = ([0; BLOCK], 0);
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) => break,
                Ok(got) => have += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Io(error)),
            }
        }
        if block[..have].iter().any(|&byte| byte != 0) {
            return Err(self.damaged("it goes on behind one block of zeros, where two are an end"));
        }
        self.offset += have as u64;
        Ok(())
    }

    fn device(&self, header: &Header) -> Result<(u32, u32), TarError> {
        let what = "a device number is not a number";
        let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Err(self.damaged("a device in an archive too old to have one")),
        };
        let number = |field: &[u8]| {
            self.number(field, what).and_then(|number| u32::try_from(number).map_err(|_| self.damaged(what)))
        };
        Ok((number(major)?, number(minor)?))
    }

    /// Parses a number of a header: octal text, or big-endian two's complement if the first bit is set. Blank is zero.
    fn number(&self, field: &[u8], what: &'static str) -> Result<i64, TarError> {
        let parsed = if field[0] & 0x80 == 0 {
            let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
            match field[..end].trim_ascii() {
                b"" => Some(0),
                digits => std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| u64::from_str_radix(digits, 8).ok())
                    .and_then(|number| i64::try_from(number).ok()),
            }
        } else {
            // The bit below the marker is the sign.
            let sign =
                if field[0] & 0x40 == 0 { i128::from(field[0] & 0x3F) } else { i128::from(field[0] | 0x80) - 256 };
            let number = field[1..].iter().fold(sign, |number, &byte| (number << 8) | i128::from(byte));
            i64::try_from(number).ok()
        };
        parsed.ok_or_else(|| self.damaged(what))
    }

    /// Reads the content of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_MAX {
            return Err(self.damaged("an extension header is over 1 MiB"));
        }
        // Extension headers are not entries, and a file may have several, so their size is what is limited.
        let padded = size.next_multiple_of(BLOCK as u64);
        self.take(BLOCK as u64 + padded)?;
        let mut bytes = vec![0; usize::try_from(padded).expect("at most 1 MiB")];
        self.fill(&mut bytes)?;
        self.offset += padded;
        bytes.truncate(usize::try_from(size).expect("at most 1 MiB"));
        Ok(bytes)
    }

    /// Skips the rest of the current entry and its padding.
    fn skip(&mut self) -> Result<(), TarError> {
        let mut rest = std::mem::take(&mut self.left);
        // Most entries were read to their end and need no buffer.
        while rest > 0 {
            let mut buffer = [0; 16 << 10];
            let want = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            self.fill(&mut buffer[..want])?;
            self.offset += want as u64;
            rest -= want as u64;
        }
        let padding = usize::try_from(std::mem::take(&mut self.padding)).expect("less than a block");
        match self.fill(&mut [0; BLOCK][..padding]) {
            // Some writers end with the last byte of the last file.
            Err(TarError::Damaged { .. }) if self.open_ended => {}
            other => other?,
        }
        self.offset += padding as u64;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends in the middle of an entry"))
            }
            Err(error) => Err(TarError::Io(error)),
        }
    }

    fn damaged(&self, what: &'static str) -> TarError {
        TarError::Damaged { offset: self.offset, what }
    }
}

impl<R: BufRead> Reader<R> {
    /// Passes the content of the current entry to `look`, piece by piece, without a copy.
    pub fn pass<E: From<TarError>>(&mut self, mut look: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.left > 0 {
            let piece = match self.input.fill_buf() {
                Ok([]) => return Err(self.damaged("it ends in the middle of an entry").into()),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TarError::Io(error).into()),
            };
            let take = usize::try_from(self.left).map_or(piece.len(), |left| left.min(piece.len()));
            look(&piece[..take])?;
            self.input.consume(take);
            self.left -= take as u64;
            self.offset += take as u64;
        }
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..want])?;
        self.left -= got as u64;
        self.offset += got as u64;
        Ok(got)
    }
}

fn unsupported(path: Vec<u8>, kind: &'static str) -> TarError {
    TarError::Unsupported { path, kind }
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

#[cfg(test)]
mod tests;
