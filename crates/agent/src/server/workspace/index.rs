//! Parser of git's index (gitformat-index, versions 2 and 3): the files, and their stat data.

use banger_proto::agent::workspace::HashName;
use rustix::fs::Stat;
use sha1::Digest as _;
use std::{io, ops::Range};

/// Bytes before the first entry.
const HEADER: usize = 12;
/// Bytes of stat data in an entry, with the mode.
const STAT: usize = 40;

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File { executable: bool },
    Link,
    Submodule,
}

/// An entry of the index.
#[derive(Debug)]
pub(super) struct Entry {
    /// Offset in the index.
    at: usize,
    pub(super) kind: Kind,
    id: Range<usize>,
    path: Range<usize>,
    /// Whether it is in conflict, or not in the working tree of a sparse checkout: not to be written.
    pub(super) absent: bool,
}

/// A whole index.
#[derive(Debug)]
pub(super) struct Index {
    bytes: Vec<u8>,
    hash: HashName,
    pub(super) entries: Vec<Entry>,
}

impl Index {
    /// Parses an index; every length in it is checked against the number of bytes.
    pub(super) fn parse(bytes: Vec<u8>, hash: HashName) -> io::Result<Self> {
        let word =
            |at: usize| bytes.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().unwrap_or_default()));
        let (Some(version @ 2..=3), Some(count), b"DIRC") = (word(4), word(8), bytes.get(..4).unwrap_or_default())
        else {
            return Err(broken("it is no index of version 2 or 3"));
        };
        let end = bytes.len().checked_sub(hash.len()).ok_or_else(|| broken("it is too short"))?;
        let (mut at, mut entries) = (HEADER, Vec::new());
        for _ in 0..count {
            let entry = entry(&bytes[..end], at, version, hash).ok_or_else(|| broken("an entry breaks off"))?;
            // Each entry is padded with one to eight zeroes to a multiple of eight.
            at += (entry.path.end - at + 8) & !7;
            entries.push(entry);
        }
        Ok(Self { bytes, hash, entries })
    }

    pub(super) fn path(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.path.clone()]
    }

    pub(super) fn id(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.id.clone()]
    }

    /// Sets the stat data of an entry; its mode stays git's.
    pub(super) fn set_stat(&mut self, entry: usize, stat: &Stat) {
        let at = self.entries[entry].at;
        let low = |number: u64| (number & 0xffff_ffff) as u32;
        let fields = [
            (0, low(stat.st_ctime.cast_unsigned())),
            (4, low(stat.st_ctime_nsec)),
            (8, low(stat.st_mtime.cast_unsigned())),
            (12, low(stat.st_mtime_nsec)),
            (16, low(stat.st_dev)),
            (20, low(stat.st_ino)),
            (28, stat.st_uid),
            (32, stat.st_gid),
            (36, low(stat.st_size.cast_unsigned())),
        ];
        for (offset, value) in fields {
            self.bytes[at + offset..at + offset + 4].copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Returns the index with a new checksum.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        let end = self.bytes.len() - self.hash.len();
        let sum = match self.hash {
            HashName::Sha1 => sha1::Sha1::digest(&self.bytes[..end]).to_vec(),
            HashName::Sha256 => sha2::Sha256::digest(&self.bytes[..end]).to_vec(),
        };
        self.bytes[end..].copy_from_slice(&sum);
        self.bytes
    }
}

fn entry(bytes: &[u8], at: usize, version: u32, hash: HashName) -> Option<Entry> {
    let mode = u32::from_be_bytes(bytes.get(at + 24..at + 28)?.try_into().ok()?);
    let id = at + STAT..at + STAT + hash.len();
    let flags = u16::from_be_bytes(bytes.get(id.end..id.end + 2)?.try_into().ok()?);
    let (mut begin, mut absent) = (id.end + 2, flags & 0x3000 != 0);
    if version == 3 && flags & 0x4000 != 0 {
        let more = u16::from_be_bytes(bytes.get(begin..begin + 2)?.try_into().ok()?);
        absent |= more & 0x4000 != 0;
        begin += 2;
    }
    let length = match usize::from(flags & 0xfff) {
        // Longer than the field can say: it ends at the zero byte.
        0xfff => bytes.get(begin..)?.iter().position(|byte| *byte == 0)?,
        length => length,
    };
    let path = begin..begin + length;
    let kind = match mode & 0o170_000 {
        0o100_000 => Kind::File { executable: mode & 0o100 != 0 },
        0o120_000 => Kind::Link,
        _ => Kind::Submodule,
    };
    (bytes.get(path.end) == Some(&0)).then_some(Entry { at, kind, id, path, absent })
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the index cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(version: u32, entries: &[(&str, u32, u16)]) -> Vec<u8> {
        let mut bytes =
            [b"DIRC".as_slice(), &version.to_be_bytes(), &u32::try_from(entries.len()).unwrap().to_be_bytes()].concat();
        for (path, mode, flags) in entries {
            let begin = bytes.len();
            bytes.extend([1; 24]);
            bytes.extend(mode.to_be_bytes());
            bytes.extend([1; 12]);
            bytes.extend([7; 20]);
            bytes.extend((flags | u16::try_from(path.len().min(0xfff)).unwrap()).to_be_bytes());
            if flags & 0x4000 != 0 {
                bytes.extend(0x4000_u16.to_be_bytes());
            }
            bytes.extend(path.as_bytes());
            let length = bytes.len() - begin;
            bytes.resize(begin + ((length + 8) & !7), 0);
        }
        bytes.extend(b"TREE\0\0\0\0");
        bytes.extend([0; 20]);
        bytes
    }

    #[test]
    fn entries_are_found_one_after_the_other() {
        let long = "d/".repeat(2100) + "f";
        let bytes =
            index(3, &[("a", 0o100_644, 0), ("b", 0o100_755, 0x1000), ("c", 0o120_000, 0x4000), (&long, 0o160_000, 0)]);
        let mut index = Index::parse(bytes, HashName::Sha1).unwrap();
        let seen: Vec<_> =
            index.entries.iter().map(|entry| (index.path(entry).len(), entry.kind, entry.absent)).collect();
        assert_eq!(
            seen,
            [
                (1, Kind::File { executable: false }, false),
                (1, Kind::File { executable: true }, true),
                (1, Kind::Link, true),
                (4201, Kind::Submodule, false)
            ]
        );
        assert_eq!(index.id(&index.entries[0]), [7; 20]);
        let stat = rustix::fs::stat("/").unwrap();
        index.set_stat(1, &stat);
        let again = Index::parse(index.into_bytes(), HashName::Sha1).unwrap();
        assert_eq!(
            again.bytes[again.entries[1].at + 20..][..4],
            u32::try_from(stat.st_ino & 0xffff_ffff).unwrap().to_be_bytes()
        );
        assert_eq!(again.bytes[again.entries[1].at + 24..][..4], 0o100_755_u32.to_be_bytes());
        let end = again.bytes.len() - 20;
        assert_eq!(again.bytes[end..], sha1::Sha1::digest(&again.bytes[..end])[..]);
    }

    #[test]
    fn what_breaks_off_is_no_index() {
        let whole = index(2, &[("a", 0o100_644, 0), ("some/longer/path", 0o100_644, 0)]);
        assert!(Index::parse(whole.clone(), HashName::Sha1).is_ok());
        for length in 0..whole.len() - 28 {
            assert!(Index::parse(whole[..length].to_vec(), HashName::Sha1).is_err(), "{length}");
        }
        assert!(Index::parse(index(4, &[]), HashName::Sha1).is_err());
    }
}
