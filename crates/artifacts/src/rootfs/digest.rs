//! The digest of an image, while it is written.
//!
//! Contents are written in the order of their blocks, after everything else. So what lies between two of them is in the
//! file by the time they come, and one pass from the beginning to the end sees every byte: contents from the buffers
//! they were written from, the rest from the file.

use rustix::fs::{Advice, fadvise};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, Sender},
};

/// Bytes read at once of what lies between.
const CHUNK: usize = 256 << 10;
/// Bytes after which their way to the disk begins, so that whoever syncs the image has little to wait for.
const WRITE_BACK: u64 = 16 << 20;

/// Bytes that were written.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where.
    pub(super) at: u64,
    /// The first `filled` of these.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
}

/// A digest on its way through an image.
#[derive(Debug)]
pub(super) struct Digester<'a> {
    image: &'a File,
    at: u64,
    /// What lies before is on its way to the disk.
    sent: u64,
    hash: Sha256,
    chunk: Vec<u8>,
}

impl<'a> Digester<'a> {
    pub(super) fn new(image: &'a File) -> Self {
        Self { image, at: 0, sent: 0, hash: Sha256::new(), chunk: vec![0; CHUNK] }
    }

    /// Goes along with the writing, and gives the buffers back.
    pub(super) fn follow(mut self, written: &Receiver<Piece>, emptied: &Sender<Vec<u8>>) -> io::Result<Self> {
        for Piece { at, bytes, filled } in written {
            self.up_to(at)?;
            self.hash.update(&bytes[..filled]);
            self.at += filled as u64;
            // Who writes may have ended.
            let _ = emptied.send(bytes);
            self.send();
        }
        Ok(self)
    }

    /// Lets the kernel begin to write what was written. Pages on their way stay in memory.
    fn send(&mut self) {
        let len = self.at - self.sent;
        if len >= WRITE_BACK {
            // It is only advice.
            let _ = fadvise(self.image, self.sent, NonZeroU64::new(len), Advice::DontNeed);
            self.sent = self.at;
        }
    }

    /// The digest of an image of that length, once all of it is written.
    pub(super) fn finish(mut self, len: u64) -> io::Result<[u8; 32]> {
        self.up_to(len)?;
        Ok(self.hash.finalize().into())
    }

    fn up_to(&mut self, to: u64) -> io::Result<()> {
        if to < self.at {
            return Err(io::Error::other("contents are not in the order of their blocks"));
        }
        while self.at < to {
            let len = usize::try_from(to - self.at).map_or(CHUNK, |left| left.min(CHUNK));
            self.image.read_exact_at(&mut self.chunk[..len], self.at)?;
            self.hash.update(&self.chunk[..len]);
            self.at += len as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn it_is_that_of_the_whole_file() {
        let image = tempfile::tempfile().unwrap();
        let whole: Vec<u8> = (0..1_500_000_u32).map(|n| u8::try_from(n % 253).unwrap()).collect();
        image.write_all_at(&whole, 0).unwrap();
        let (send, written) = channel();
        let (back, emptied) = channel();
        for (at, filled) in [(4096, 10), (400_000, 300_000), (700_000, 100)] {
            let mut bytes = whole[at..at + filled].to_vec();
            bytes.extend(b"not filled");
            send.send(Piece { at: at as u64, bytes, filled }).unwrap();
        }
        drop(send);
        let digester = Digester::new(&image).follow(&written, &back).unwrap();
        assert_eq!(digester.finish(whole.len() as u64).unwrap(), <[u8; 32]>::from(Sha256::digest(&whole)));
        assert_eq!(emptied.try_iter().count(), 3);
        let (send, written) = channel();
        send.send(Piece { at: 10, bytes: vec![0], filled: 1 }).unwrap();
        send.send(Piece { at: 5, bytes: vec![0], filled: 1 }).unwrap();
        drop(send);
        assert!(Digester::new(&image).follow(&written, &back).is_err());
    }
}
