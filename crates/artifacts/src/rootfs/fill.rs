//! Contents on their way from the files they wait in into the image.
//!
//! The image's order is not the stream's, and most files are small: their pieces are gathered and written together,
//! because a system call per file would cost more than its bytes. Large ones the kernel copies by itself.

use super::spool::Origin;
use crate::disk::copy_range;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Pieces up to this many bytes are gathered.
const SMALL: u64 = 64 << 10;
/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 20;
/// Files begin at multiples of this.
const BLOCK: usize = 4096;

/// Copies pieces of `sources` into `image`.
#[derive(Debug)]
pub(super) struct Filler<'a> {
    sources: &'a [Origin],
    image: &'a File,
    /// Bytes to be written at `at`.
    gathered: Vec<u8>,
    at: u64,
}

impl<'a> Filler<'a> {
    pub(super) fn new(sources: &'a [Origin], image: &'a File) -> Self {
        Self { sources, image, gathered: Vec::with_capacity(GATHERED), at: 0 }
    }

    /// Copies `len` bytes from one of the sources, at `from`, to the image at `to`, the beginning of a block.
    pub(super) fn copy(&mut self, source: u32, from: u64, to: u64, len: u64) -> io::Result<()> {
        let source = self.sources[source as usize].open()?;
        if len > SMALL {
            return copy_range(&source, from, self.image, to, len);
        }
        // What is between the end of a piece and the next block is zeros in the image anyway.
        let next = self.at + self.gathered.len().next_multiple_of(BLOCK) as u64;
        let len = usize::try_from(len).expect("at most 64 KiB");
        if to != next || self.gathered.len() + BLOCK + len > GATHERED {
            self.flush()?;
            self.at = to;
        }
        let start = usize::try_from(to - self.at).expect("at most 1 MiB");
        self.gathered.resize(start + len, 0);
        source.read_exact_at(&mut self.gathered[start..], from)
    }

    /// Writes what is gathered. To be called at the end.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let written = self.image.write_all_at(&self.gathered, self.at);
        self.gathered.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_land_where_they_belong_and_nowhere_else() {
        let (spool, image) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let content: Vec<u8> = (0..4 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
        spool.write_all_at(&content, 0).unwrap();
        image.set_len(8 << 20).unwrap();
        let mut expected = vec![0; 8 << 20];
        let sources = [Origin::Open(spool)];
        let mut filler = Filler::new(&sources, &image);
        // Adjacent small ones, a gap, a large one, small ones enough to overflow, one going back.
        let mut pieces = vec![(5, 0, 10), (100, 4096, 4096), (7, 8192, 1), (9, 40_960, 5000), (1000, 49_152, 1 << 20)];
        pieces.extend((0..40_u64).map(|n| (n * 1000, (2 << 20) + n * 65_536, 60_000 + n)));
        pieces.push((3, 16_384, 4));
        for (from, to, len) in pieces {
            filler.copy(0, from, to, len).unwrap();
            let [from, to, len] = [from, to, len].map(|n| usize::try_from(n).unwrap());
            expected[to..to + len].copy_from_slice(&content[from..from + len]);
        }
        filler.flush().unwrap();
        let mut found = vec![0; 8 << 20];
        image.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
    }

    #[test]
    fn a_spool_that_ends_early_is_an_error() {
        let (spool, image) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        assert!(Filler::new(&[Origin::Open(spool)], &image).copy(0, 0, 0, 1).is_err());
    }
}
