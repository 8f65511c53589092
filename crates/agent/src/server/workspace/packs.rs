//! Reader of packs as banger makes them (gitformat-pack): objects without deltas, each pack with its index. Packs that
//! the guest's git made may be between them; what cannot be read there is skipped.

use flate2::{Decompress, FlushDecompress, Status};
use rustix::{
    fd::OwnedFd,
    fs::{Dir, Mode, OFlags, openat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};

/// Directory of packs, below the workspace.
const DIR: &str = ".git/objects/pack";
/// Bytes before the ids in a pack's index: magic, version, and the fan-out table, which counts ids up to each first
/// byte.
const FANOUT: usize = 8 + 256 * 4;
/// Largest index of a pack, in bytes.
const MAX_INDEX: u64 = 1 << 30;
/// Size of the buffers for a pack and for an object's content.
const WINDOW: usize = 128 << 10;
/// Bit that marks an offset beyond 2 GiB.
const LARGE: u32 = 1 << 31;
/// Type number of blobs.
const BLOB: u8 = 3;

/// All packs of a workspace.
#[derive(Debug)]
pub(super) struct Packs(Vec<Pack>);

#[derive(Debug)]
struct Pack {
    file: File,
    index: Vec<u8>,
    count: usize,
    /// Bytes of an id.
    hash: usize,
}

impl Packs {
    /// Opens all packs; there may be none.
    pub(super) fn open(base: &OwnedFd, hash: usize) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = openat(base, DIR, flags, Mode::empty())?;
        let open = |name: &[u8]| openat(&dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        let mut packs = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let Some(stem) = entry.file_name().to_bytes().strip_suffix(b".idx") else { continue };
            let (index_file, file) = match (open(entry.file_name().to_bytes()), open(&[stem, b".pack"].concat())) {
                // The guest's git is repacking.
                (Err(Errno::NOENT), _) | (_, Err(Errno::NOENT)) => continue,
                (index, file) => (File::from(index?), File::from(file?)),
            };
            let mut index = Vec::new();
            index_file.take(MAX_INDEX).read_to_end(&mut index)?;
            packs.extend(Pack::new(file, index, hash));
        }
        Ok(Self(packs))
    }

    /// Returns the packs an object is in, and its offset in each.
    fn find<'a>(&'a self, id: &'a [u8]) -> impl Iterator<Item = (usize, u64)> + 'a {
        self.0.iter().enumerate().filter_map(move |(pack, it)| Some((pack, it.offset(id)?)))
    }
}

impl Pack {
    /// Returns none for an index of another format.
    fn new(file: File, index: Vec<u8>, hash: usize) -> Option<Self> {
        let count = index.get(FANOUT - 4..FANOUT).map(|word| u32::from_be_bytes(word.try_into().unwrap_or_default()));
        let count = usize::try_from(count.unwrap_or(0)).unwrap_or(usize::MAX);
        let fits = count.checked_mul(hash + 8).is_some_and(|bytes| FANOUT + bytes <= index.len());
        (index.starts_with(b"\xfftOc\0\0\0\x02") && fits).then_some(Self { file, index, count, hash })
    }

    fn name(&self, at: usize) -> &[u8] {
        &self.index[FANOUT + at * self.hash..][..self.hash]
    }

    fn fanout(&self, byte: u8) -> usize {
        let word: [u8; 4] = self.index[8 + usize::from(byte) * 4..][..4].try_into().unwrap_or_default();
        usize::try_from(u32::from_be_bytes(word)).unwrap_or(usize::MAX).min(self.count)
    }

    fn offset(&self, id: &[u8]) -> Option<u64> {
        let first = *id.first()?;
        let (mut low, mut high) = (first.checked_sub(1).map_or(0, |byte| self.fanout(byte)), self.fanout(first));
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let table = FANOUT + self.count * (self.hash + 4);
                    let at = table + middle * 4;
                    let offset = u32::from_be_bytes(self.index[at..at + 4].try_into().ok()?);
                    if offset & LARGE == 0 {
                        return Some(offset.into());
                    }
                    // Position in the table of 64-bit offsets.
                    let at = table + self.count * 4 + usize::try_from(offset & !LARGE).ok()? * 8;
                    return Some(u64::from_be_bytes(self.index.get(at..at + 8)?.try_into().ok()?));
                }
            }
        }
        None
    }
}

/// Reader of blobs; fastest in the order of their offsets.
pub(super) struct Blobs<'a> {
    packs: &'a Packs,
    inflate: Decompress,
    window: Window,
    out: Vec<u8>,
}

/// Buffer over a part of one pack.
struct Window {
    bytes: Vec<u8>,
    filled: usize,
    pack: usize,
    begin: u64,
}

impl Window {
    /// Returns the bytes at `offset`, at least `least` of them unless the pack ends.
    fn at(&mut self, packs: &Packs, pack: usize, offset: u64, least: usize) -> io::Result<&[u8]> {
        let inside = offset.checked_sub(self.begin).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = inside.filter(|skip| self.pack == pack && skip + least <= self.filled) {
            return Ok(&self.bytes[skip..self.filled]);
        }
        (self.pack, self.begin, self.filled) = (pack, offset, 0);
        while self.filled < self.bytes.len() {
            match packs.0[pack].file.read_at(&mut self.bytes[self.filled..], offset + self.filled as u64)? {
                0 => break,
                count => self.filled += count,
            }
        }
        Ok(&self.bytes[..self.filled])
    }
}

impl<'a> Blobs<'a> {
    pub(super) fn new(packs: &'a Packs) -> Self {
        let window = Window { bytes: vec![0; WINDOW], filled: 0, pack: usize::MAX, begin: 0 };
        Self { packs, inflate: Decompress::new(true), window, out: vec![0; WINDOW] }
    }

    /// Returns the size of a blob; none when no pack has it without a delta.
    pub(super) fn size(&mut self, id: &[u8]) -> io::Result<Option<u64>> {
        Ok(self.find(id)?.map(|(_, _, size)| size))
    }

    /// Finds a pack that has the blob without a delta: number of the pack, offset of the content, and size.
    fn find(&mut self, id: &[u8]) -> io::Result<Option<(usize, u64, u64)>> {
        for (pack, at) in self.packs.find(id) {
            if let Some((size, length)) = header(self.window.at(self.packs, pack, at, 16)?) {
                return Ok(Some((pack, at + length, size)));
            }
        }
        Ok(None)
    }

    /// Passes a blob's content to `to` in parts; returns `false` when no pack has it without a delta.
    pub(super) fn read(&mut self, id: &[u8], to: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
        let Some((pack, mut at, size)) = self.find(id)? else { return Ok(false) };
        self.inflate.reset(true);
        let mut total = 0;
        loop {
            let input = self.window.at(self.packs, pack, at, 1)?;
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, &mut self.out, FlushDecompress::None);
            let status = status.map_err(|_| broken("is damaged"))?;
            let used = self.inflate.total_in() - before.0;
            let made = usize::try_from(self.inflate.total_out() - before.1).unwrap_or(usize::MAX);
            (at, total) = (at + used, total + made as u64);
            to(&self.out[..made])?;
            match status {
                Status::StreamEnd if total == size => return Ok(true),
                Status::Ok | Status::BufError if total <= size && (used, made) != (0, 0) => {}
                _ => return Err(broken("is not as long as it says")),
            }
        }
    }
}

/// Parses an object's header to its size and the length of the header; none unless it is a blob without a delta.
fn header(bytes: &[u8]) -> Option<(u64, u64)> {
    let first = *bytes.first()?;
    if (first >> 4) & 7 != BLOB {
        return None;
    }
    let (mut size, mut shift, mut more, mut length) = (u64::from(first & 0xf), 4, first & 0x80 != 0, 1);
    while more {
        let byte = *bytes.get(length)?;
        size |= u64::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 60)?;
        (shift, more, length) = (shift + 7, byte & 0x80 != 0, length + 1);
    }
    Some((size, length as u64))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an object {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_kind_and_size() {
        assert_eq!(header(&[0x3f]), Some((15, 1)));
        assert_eq!(header(&[0xb0, 0x01]), Some((16, 2)));
        // A commit, a delta, and numbers without an end.
        for bytes in [[0x1f].as_slice(), &[0x6f], &[], &[0xb0], &[0xbf; 12]] {
            assert_eq!(header(bytes), None, "{bytes:?}");
        }
    }
    /// A pack's index with one object at `offset`.
    fn index(id: [u8; 20], offset: u32, large: &[u64]) -> Vec<u8> {
        let mut bytes = b"\xfftOc\0\0\0\x02".to_vec();
        bytes.extend((0..=255_u8).flat_map(|byte| u32::from(byte >= id[0]).to_be_bytes()));
        bytes.extend(id);
        bytes.extend([0; 4]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(large.iter().flat_map(|offset| offset.to_be_bytes()));
        bytes.extend([0; 40]);
        bytes
    }

    #[test]
    fn offsets_beyond_two_gigabytes_are_in_a_table_of_their_own() {
        let id = [7; 20];
        let offset = |offset, large: &[u64]| {
            let pack = Pack::new(tempfile::tempfile().unwrap(), index(id, offset, large), 20).unwrap();
            (pack.offset(&id), pack.offset(&[8; 20]))
        };
        assert_eq!(offset(12, &[]), (Some(12), None));
        assert_eq!(offset(LARGE | 1, &[1, 5 << 30]), (Some(5 << 30), None));
        // Beyond the table.
        assert_eq!(offset(LARGE | 0x7fff_ffff, &[]), (None, None));
    }
}
