//! The unpacked bytes of a layer, on their way from the decoder's thread to the walk over the archive.
//!
//! Whoever reads from here reads what has been counted already; what was read is hashed, and the buffers go back to be
//! filled again, so a layer of any size takes the memory of a few of them.

use super::{Digest, error::LayerError, hashing::BufferedStream};
use crate::job::Cancel;
use std::{
    io::{self, BufRead, Read},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender},
    },
};

/// Bytes of one buffer.
pub(super) const CHUNK: usize = 256 << 10;
/// Buffers that are full and wait.
pub(super) const QUEUE: usize = 6;

/// What a layer may unpack to.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackLimit<'a> {
    /// Most bytes of all layers together, and how many there are already.
    pub(super) most: u64,
    pub(super) used: &'a AtomicU64,
    /// Most bytes of this layer, which is its size times the ratio, or what harms nobody.
    pub(super) layer: Option<u64>,
    /// That ratio.
    pub(super) ratio: u64,
}

/// The reader's side.
pub(super) struct ChunkReader<'a> {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    taken: usize,
    total: u64,
    hash: BufferedStream<'a>,
    limit: UnpackLimit<'a>,
    cancel: &'a Cancel,
    failure: Option<LayerError>,
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(
        full: Receiver<Vec<u8>>,
        empty: Sender<Vec<u8>>,
        limit: UnpackLimit<'a>,
        hash: BufferedStream<'a>,
        cancel: &'a Cancel,
    ) -> Self {
        Self { full, empty, current: Vec::new(), taken: 0, total: 0, hash, limit, cancel, failure: None }
    }

    /// Why reading failed, if it did.
    pub(super) fn failure(&mut self) -> Option<LayerError> {
        self.failure.take()
    }

    /// Reads what is left; the digest of everything.
    pub(super) fn finish(mut self) -> Result<Digest, LayerError> {
        while self.next()? {}
        self.hash.give(self.current);
        Ok(self.hash.finish())
    }

    /// Takes the next buffer; false at the end, which is also where the decoder failed: the decoder says so itself.
    fn next(&mut self) -> Result<bool, LayerError> {
        // A few packed bytes may be gigabytes here: whoever packed them is asked too seldom.
        self.cancel.check()?;
        let Ok(next) = self.full.recv() else { return Ok(false) };
        let old = std::mem::replace(&mut self.current, next);
        self.taken = 0;
        for spent in self.hash.give(old) {
            // The decoder may have ended.
            let _ = self.empty.send(spent);
        }
        let len = self.current.len() as u64;
        let before = self.limit.used.fetch_add(len, Ordering::Relaxed);
        if before + len > self.limit.most {
            return Err(LayerError::TooLarge(self.limit.most));
        }
        if self.limit.layer.is_some_and(|most| self.total + len > most) {
            return Err(LayerError::Ratio(self.limit.ratio));
        }
        self.total += len;
        Ok(true)
    }
}

impl BufRead for ChunkReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.current.len() {
            match self.next() {
                Ok(true) => {}
                Ok(false) => return Ok(&[]),
                Err(failure) => {
                    self.failure = Some(failure);
                    return Err(io::Error::other("the layer is refused"));
                }
            }
        }
        Ok(&self.current[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::hashing::HashPool, *};
    use std::sync::mpsc::{channel, sync_channel};

    #[test]
    fn who_is_cancelled_reads_no_more_of_what_is_there() {
        let (full, filled) = sync_channel(2);
        let (used, hash_pool, cancel) = (AtomicU64::new(0), HashPool::default(), Cancel::default());
        let limit = UnpackLimit { most: 100, used: &used, layer: None, ratio: 1 };
        let mut chunks = ChunkReader::new(filled, channel().0, limit, hash_pool.buffered_stream(), &cancel);
        full.send(vec![7; 2]).unwrap();
        full.send(vec![7; 2]).unwrap();
        assert_eq!(chunks.read(&mut [0; 2]).unwrap(), 2);
        cancel.cancel();
        chunks.read(&mut [0; 2]).unwrap_err();
        assert!(matches!(chunks.failure(), Some(LayerError::Cancelled(_))));
        assert_eq!(used.load(Ordering::Relaxed), 2);
    }
}
