//! Writes contents and metadata into the image in batches.
//!
//! Most files and all metadata are small: adjacent ranges are gathered and written together ([`super::write_behind`]),
//! because one system call per file would cost more than its bytes. Large files are copied by the kernel.

use super::{
    block_layout::{self, BLOCK, BLOCK_BYTES, Run},
    spool::{ContentSource, IMAGE},
    tree_hash::TreeHash,
    when_full::WhenFull,
    write_behind::{BUFFER, WriteBehind},
};
use crate::disk::copy_range;
use std::{fs::File, io, os::unix::fs::FileExt, thread::Scope};

/// Upper bound of a range that is gathered in any case, in bytes.
const SMALL: u64 = 64 << 10;

/// Writes blocks of `image`, gathering adjacent ones.
#[derive(Debug)]
pub(super) struct BatchWriter<'a> {
    sources: &'a [ContentSource],
    image: &'a File,
    when_full: &'a WhenFull,
    write_behind: WriteBehind<'a>,
    /// Gathered bytes, to be written at `at`.
    gathered: Vec<u8>,
    at: u64,
}

impl<'a> BatchWriter<'a> {
    /// Writes into `image` on a thread of `scope`; `tree_hash` is what is known of its hashes.
    pub(super) fn new(
        scope: &'a Scope<'a, '_>,
        sources: &'a [ContentSource],
        image: &'a File,
        when_full: &'a WhenFull,
        tree_hash: TreeHash,
    ) -> io::Result<Self> {
        let write_behind = WriteBehind::start(scope, image, when_full, tree_hash)?;
        Ok(Self { sources, image, when_full, write_behind, gathered: Vec::with_capacity(BUFFER), at: 0 })
    }

    /// Reports blocks that were turned into a hole.
    pub(super) fn cleared(&mut self, run: Run) -> io::Result<()> {
        self.write_behind.cleared(run)
    }

    /// Writes `bytes` from the start of `block` on.
    pub(super) fn put(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut to, mut left) = (block * BLOCK, bytes);
        while !left.is_empty() {
            let room = self.room(to)?;
            let (now, later) = left.split_at(room.min(left.len()));
            self.gathered.extend_from_slice(now);
            to += now.len() as u64;
            left = later;
        }
        Ok(())
    }

    /// Copies `len` bytes of one of the sources, from byte `from` on, to byte `to` of the image, the start of a block.
    pub(super) fn copy(&mut self, source: u32, from: u64, to: u64, len: u64) -> io::Result<()> {
        if source != IMAGE {
            let source = self.sources[source as usize].open()?;
            return self.copy_file(&source, from, to, len);
        }
        // Content that another file has as well: this one gets its own copy.
        let mut done = 0;
        let image = self.image;
        for Run { start, len: blocks } in block_layout::allocatable_runs(from / BLOCK, len.div_ceil(BLOCK)) {
            let bytes = (blocks * BLOCK).min(len - done);
            self.copy_file(image, start * BLOCK, to + done, bytes)?;
            done += bytes;
        }
        Ok(())
    }

    fn copy_file(&mut self, source: &File, mut from: u64, mut to: u64, len: u64) -> io::Result<()> {
        if len > SMALL {
            self.write_behind.changed(Run::of_bytes(to, len))?;
            return self.when_full.fit(self.image, || copy_range(source, from, self.image, to, len));
        }
        let end = to + len;
        while to < end {
            let room = self.room(to)?;
            let len = usize::try_from(end - to).map_or(room, |left| left.min(room));
            let filled = self.gathered.len();
            self.gathered.resize(filled + len, 0);
            source.read_exact_at(&mut self.gathered[filled..], from)?;
            (from, to) = (from + len as u64, to + len as u64);
        }
        Ok(())
    }

    /// Makes room for at least one byte that goes to `to` and returns for how many.
    fn room(&mut self, to: u64) -> io::Result<usize> {
        let filled = self.gathered.len();
        // Between the end of one range and the next block the image has zeros.
        let ends = [filled, filled.next_multiple_of(BLOCK_BYTES)];
        match ends.into_iter().find(|&end| to == self.at + end as u64) {
            Some(end) if end < capacity(self.at) => self.gathered.resize(end, 0),
            _ => {
                self.flush()?;
                self.at = to;
            }
        }
        Ok(capacity(self.at) - self.gathered.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.gathered = self.write_behind.write(self.at, std::mem::take(&mut self.gathered))?;
        Ok(())
    }

    /// Writes what is gathered and returns the hashes of the image.
    pub(super) fn finish(mut self) -> io::Result<TreeHash> {
        self.flush()?;
        self.write_behind.finish()
    }
}

/// Size of a buffer that begins at byte `at`: buffers end where pieces do, so that most pieces are whole in one buffer.
fn capacity(at: u64) -> usize {
    BUFFER - usize::try_from(at % BUFFER as u64).expect("less than a buffer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn pieces_land_where_they_belong_and_nowhere_else() {
        let spool = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..4 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
        spool.write_all_at(&content, 0).unwrap();
        let sources = [ContentSource::Open(spool)];
        // Adjacent small ranges, a gap, a large one, enough small ones to overflow, one that goes back.
        let mut pieces = vec![(5, 0, 10), (100, 4096, 4096), (7, 8192, 1), (9, 40_960, 5000), (1000, 49_152, 1 << 20)];
        pieces.extend((0..40_u64).map(|n| (n * 1000, (2 << 20) + n * 65_536, 60_000 + n)));
        pieces.push((3, 16_384, 4));
        let image = tempfile::tempfile().unwrap();
        image.set_len(8 << 20).unwrap();
        let mut expected = vec![0; 8 << 20];
        let none = WhenFull::default();
        let known = thread::scope(|scope| {
            let mut writer = BatchWriter::new(scope, &sources, &image, &none, TreeHash::default()).unwrap();
            for &(from, to, len) in &pieces {
                writer.copy(0, from, to, len).unwrap();
                let [from, to, len] = [from, to, len].map(|n| usize::try_from(n).unwrap());
                expected[to..to + len].copy_from_slice(&content[from..from + len]);
            }
            for (block, len) in [(1200, 4096), (1201, 100), (1500, (1 << 20) + 5)] {
                writer.put(block, &content[..len]).unwrap();
                let to = usize::try_from(block * BLOCK).unwrap();
                expected[to..to + len].copy_from_slice(&content[..len]);
            }
            writer.finish().unwrap()
        });
        let mut found = vec![0; 8 << 20];
        image.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        // Written ranges are recorded as changed.
        assert_eq!(known.digest(&image, 8 << 20).unwrap(), *blake3::hash(&expected).as_bytes());
    }

    #[test]
    fn a_spool_that_ends_early_is_an_error() {
        let (spool, image) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let sources = [ContentSource::Open(spool)];
        let none = WhenFull::default();
        thread::scope(|scope| {
            let mut writer = BatchWriter::new(scope, &sources, &image, &none, TreeHash::default()).unwrap();
            assert!(writer.copy(0, 0, 0, 1).is_err());
        });
    }
}
