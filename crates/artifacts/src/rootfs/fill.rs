//! Contents on their way from the files they wait in into the image.
//!
//! The image's order is not the stream's, and most files are small: their pieces are gathered and written together,
//! because a system call per file would cost more than its bytes. What is written is handed on to whoever hashes the
//! image, so that its bytes are not read once more for that; where nobody does, the kernel copies the large ones by itself.

use super::{digest::Piece, spool::Origin};
use crate::disk::copy_range;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, SyncSender},
};

/// Pieces up to this many bytes are gathered in any case.
const SMALL: u64 = 64 << 10;
/// Bytes gathered before they are written.
const GATHERED: usize = 512 << 10;
/// Files begin at multiples of this.
const BLOCK: usize = 4096;

/// Copies pieces of `sources` into `image`.
#[derive(Debug)]
pub(super) struct Filler<'a> {
    sources: &'a [Origin],
    image: &'a File,
    /// Bytes to be written at `at`, as many as are filled.
    gathered: Vec<u8>,
    filled: usize,
    at: u64,
    hasher: Option<Hasher>,
}

/// Who hashes what was written, and gives the buffers back.
#[derive(Debug)]
pub(super) struct Hasher {
    pub(super) written: SyncSender<Piece>,
    pub(super) emptied: Receiver<Vec<u8>>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(sources: &'a [Origin], image: &'a File, hasher: Option<Hasher>) -> Self {
        Self { sources, image, gathered: vec![0; GATHERED], filled: 0, at: 0, hasher }
    }

    /// Copies `len` bytes from one of the sources, at `from`, to the image at `to`, the beginning of a block. Where the
    /// image is hashed, each call's `to` lies behind all before.
    pub(super) fn copy(&mut self, source: u32, mut from: u64, mut to: u64, len: u64) -> io::Result<()> {
        let source = self.sources[source as usize].open()?;
        if self.hasher.is_none() && len > SMALL {
            return copy_range(&source, from, self.image, to, len);
        }
        let end = to + len;
        while to < end {
            // What is between the end of a piece and the next block is zeros in the image.
            let start = self.filled.next_multiple_of(BLOCK);
            if to != self.at + start as u64 || start == GATHERED {
                self.flush()?;
                self.at = to;
                continue;
            }
            self.gathered[self.filled..start].fill(0);
            let len = usize::try_from(end - to).map_or(GATHERED, |left| left.min(GATHERED - start));
            source.read_exact_at(&mut self.gathered[start..start + len], from)?;
            self.filled = start + len;
            (from, to) = (from + len as u64, to + len as u64);
        }
        Ok(())
    }

    /// Writes what is gathered. To be called at the end.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        self.image.write_all_at(&self.gathered[..self.filled], self.at)?;
        let filled = std::mem::take(&mut self.filled);
        let Some(hasher) = &self.hasher else { return Ok(()) };
        let next = hasher.emptied.try_recv().unwrap_or_else(|_| vec![0; GATHERED]);
        let bytes = std::mem::replace(&mut self.gathered, next);
        // It stopped because it failed, and says why itself.
        let sent = hasher.written.send(Piece { at: self.at, bytes, filled });
        sent.map_err(|_| io::Error::other("nobody hashes what is written"))
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
        let (written, to_hash) = std::sync::mpsc::sync_channel(100);
        let (_give_back, emptied) = std::sync::mpsc::channel();
        for hasher in [None, Some(Hasher { written, emptied })] {
            let hashed = hasher.is_some();
            let image = tempfile::tempfile().unwrap();
            image.set_len(8 << 20).unwrap();
            let mut expected = vec![0; 8 << 20];
            let mut filler = Filler::new(&sources, &image, hasher);
            for &(from, to, len) in &pieces {
                filler.copy(0, from, to, len).unwrap();
                let [from, to, len] = [from, to, len].map(|n| usize::try_from(n).unwrap());
                expected[to..to + len].copy_from_slice(&content[from..from + len]);
            }
            filler.flush().unwrap();
            let mut found = vec![0; 8 << 20];
            image.read_exact_at(&mut found, 0).unwrap();
            assert!(found == expected);
            drop(filler);
            // What is handed on is what was written, where it was.
            let mut pieces = 0;
            for Piece { at, bytes, filled } in to_hash.try_iter() {
                let at = usize::try_from(at).unwrap();
                assert!(bytes[..filled] == expected[at..at + filled]);
                pieces += 1;
            }
            assert_eq!(pieces > 0, hashed);
        }
    }

    #[test]
    fn a_spool_that_ends_early_is_an_error() {
        let (spool, image) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        assert!(Filler::new(&[Origin::Open(spool)], &image, None).copy(0, 0, 0, 1).is_err());
    }
}
