//! Contents and metadata on their way into the image.
//!
//! Most files and all metadata are small: their pieces are gathered and written together, because a system call per file
//! would cost more than its bytes. Large ones the kernel copies by itself.

use super::{
    ground::{self, BLOCK, BLOCK_BYTES, Run},
    pieces::Pieces,
    spool::{IMAGE, Origin},
};
use crate::disk::copy_range;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Pieces up to this many bytes are gathered in any case.
const SMALL: u64 = 64 << 10;
/// Bytes gathered before they are written.
const GATHERED: usize = 512 << 10;

/// Writes into `image`.
#[derive(Debug)]
pub(super) struct Filler<'a> {
    sources: &'a [Origin],
    image: &'a File,
    /// What is known of what is in it.
    pub(super) pieces: Pieces,
    /// Bytes to be written at `at`, as many as are filled.
    gathered: Vec<u8>,
    filled: usize,
    at: u64,
}

impl<'a> Filler<'a> {
    pub(super) fn new(sources: &'a [Origin], image: &'a File, pieces: Pieces) -> Self {
        Self { sources, image, pieces, gathered: vec![0; GATHERED], filled: 0, at: 0 }
    }

    /// Writes `bytes` to the beginning of a block.
    pub(super) fn put(&mut self, block: u64, bytes: &[u8]) -> io::Result<()> {
        let mut to = block * BLOCK;
        for piece in bytes.chunks(GATHERED) {
            let place = self.gather(to, piece.len())?;
            self.gathered[place..place + piece.len()].copy_from_slice(piece);
            to += piece.len() as u64;
        }
        Ok(())
    }

    /// Copies `len` bytes from one of the sources, at `from`, to the image at `to`, the beginning of a block.
    pub(super) fn copy(&mut self, source: u32, from: u64, to: u64, len: u64) -> io::Result<()> {
        if source != IMAGE {
            let source = self.sources[source as usize].open()?;
            return self.copy_file(&source, from, to, len);
        }
        // What another file has as well, which gets its own.
        let mut done = 0;
        let image = self.image;
        for Run { start, len: blocks } in ground::runs(from / BLOCK, len.div_ceil(BLOCK)) {
            let bytes = (blocks * BLOCK).min(len - done);
            self.copy_file(image, start * BLOCK, to + done, bytes)?;
            done += bytes;
        }
        Ok(())
    }

    fn copy_file(&mut self, source: &File, mut from: u64, mut to: u64, len: u64) -> io::Result<()> {
        if len > SMALL {
            self.pieces.changed(Run { start: to / BLOCK, len: len.div_ceil(BLOCK) });
            return copy_range(source, from, self.image, to, len);
        }
        let end = to + len;
        while to < end {
            let len = usize::try_from(end - to).map_or(GATHERED, |left| left.min(GATHERED));
            let place = self.gather(to, len)?;
            source.read_exact_at(&mut self.gathered[place..place + len], from)?;
            (from, to) = (from + len as u64, to + len as u64);
        }
        Ok(())
    }

    /// Makes room for `len` bytes that go to `to`: where they are gathered.
    fn gather(&mut self, to: u64, len: usize) -> io::Result<usize> {
        // What is between the end of a piece and the next block is zeros in the image.
        let mut start = self.filled.next_multiple_of(BLOCK_BYTES);
        if to != self.at + start as u64 || start + len > GATHERED {
            self.flush()?;
            (self.at, start) = (to, 0);
        }
        self.gathered[self.filled..start].fill(0);
        self.filled = start + len;
        Ok(start)
    }

    /// Writes what is gathered. To be called at the end.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return Ok(());
        }
        self.pieces.changed(Run { start: self.at / BLOCK, len: (filled as u64).div_ceil(BLOCK) });
        self.image.write_all_at(&self.gathered[..filled], self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_land_where_they_belong_and_nowhere_else() {
        let spool = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..4 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
        spool.write_all_at(&content, 0).unwrap();
        let sources = [Origin::Open(spool)];
        // Adjacent small ones, a gap, a large one, small ones enough to overflow, one going back.
        let mut pieces = vec![(5, 0, 10), (100, 4096, 4096), (7, 8192, 1), (9, 40_960, 5000), (1000, 49_152, 1 << 20)];
        pieces.extend((0..40_u64).map(|n| (n * 1000, (2 << 20) + n * 65_536, 60_000 + n)));
        pieces.push((3, 16_384, 4));
        let image = tempfile::tempfile().unwrap();
        image.set_len(8 << 20).unwrap();
        let mut expected = vec![0; 8 << 20];
        let mut filler = Filler::new(&sources, &image, Pieces::default());
        for &(from, to, len) in &pieces {
            filler.copy(0, from, to, len).unwrap();
            let [from, to, len] = [from, to, len].map(|n| usize::try_from(n).unwrap());
            expected[to..to + len].copy_from_slice(&content[from..from + len]);
        }
        for (block, len) in [(1200, 4096), (1201, 100), (1500, (1 << 20) + 5)] {
            filler.put(block, &content[..len]).unwrap();
            let to = usize::try_from(block * BLOCK).unwrap();
            expected[to..to + len].copy_from_slice(&content[..len]);
        }
        filler.flush().unwrap();
        let mut found = vec![0; 8 << 20];
        image.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        // What was written is known to have changed.
        assert_eq!(filler.pieces.digest(&image, 8 << 20).unwrap(), *blake3::hash(&expected).as_bytes());
    }

    #[test]
    fn a_spool_that_ends_early_is_an_error() {
        let (spool, image) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let sources = [Origin::Open(spool)];
        assert!(Filler::new(&sources, &image, Pieces::default()).copy(0, 0, 0, 1).is_err());
    }
}
