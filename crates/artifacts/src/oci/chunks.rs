//! Decompressed bytes of a layer, on their way from the decoder's thread to the reader of the archive.
//!
//! Every byte is counted before it is read, and hashed afterwards; then its buffer goes back to be filled again, so a
//! layer of any size takes the memory of a few buffers.

use super::{Digest, error::LayerError, hashing::HashStream};
use crate::job::Cancel;
use std::{
    io::{self, BufRead, Read},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender},
    },
};

/// Size of a buffer in bytes.
pub(super) const CHUNK: usize = 256 << 10;
/// Upper bound of the full buffers that wait to be read.
pub(super) const QUEUE: usize = 6;

/// Limits of what a layer may decompress to.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackLimit<'a> {
    /// Upper bound of the bytes of all layers together, and how many there are already.
    pub(super) max: u64,
    pub(super) used: &'a AtomicU64,
    /// Upper bound of this layer's bytes: its compressed size times the ratio, or the size that is exempt from it.
    pub(super) layer: Option<u64>,
    /// Ratio, for the error.
    pub(super) ratio: u64,
}

/// Reader of the decompressed bytes.
pub(super) struct ChunkReader<'a> {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    consumed: usize,
    total: u64,
    hash: HashStream<'a>,
    limit: UnpackLimit<'a>,
    cancel: &'a Cancel,
    failure: Option<LayerError>,
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(
        full: Receiver<Vec<u8>>,
        empty: Sender<Vec<u8>>,
        limit: UnpackLimit<'a>,
        hash: HashStream<'a>,
        cancel: &'a Cancel,
    ) -> Self {
        Self { full, empty, current: Vec::new(), consumed: 0, total: 0, hash, limit, cancel, failure: None }
    }

    /// Takes the reason why reading failed, if it did.
    pub(super) fn failure(&mut self) -> Option<LayerError> {
        self.failure.take()
    }

    /// Reads the rest and returns the digest of everything.
    pub(super) fn finish(mut self) -> Result<Digest, LayerError> {
        while self.next()? {}
        self.hash.push(self.current);
        Ok(self.hash.finish())
    }

    /// Takes the next buffer; false at the end. If the decoder failed, it looks like an end here: the decoder reports
    /// the failure itself.
    fn next(&mut self) -> Result<bool, LayerError> {
        // Checked here, because a few compressed bytes may become gigabytes: the source of the compressed bytes checks
        // too seldom.
        self.cancel.check()?;
        let Ok(next) = self.full.recv() else { return Ok(false) };
        let old = std::mem::replace(&mut self.current, next);
        self.consumed = 0;
        for hashed in self.hash.push(old) {
            // The decoder may have ended.
            let _ = self.empty.send(hashed);
        }
        let len = self.current.len() as u64;
        let before = self.limit.used.fetch_add(len, Ordering::Relaxed);
        if before + len > self.limit.max {
            return Err(LayerError::TooLarge(self.limit.max));
        }
        if self.limit.layer.is_some_and(|max| self.total + len > max) {
            return Err(LayerError::Ratio(self.limit.ratio));
        }
        self.total += len;
        Ok(true)
    }
}

impl BufRead for ChunkReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.consumed == self.current.len() {
            match self.next() {
                Ok(true) => {}
                Ok(false) => return Ok(&[]),
                Err(failure) => {
                    self.failure = Some(failure);
                    return Err(io::Error::other("the layer is refused"));
                }
            }
        }
        Ok(&self.current[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
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
    fn a_canceled_reader_stops_before_the_next_buffer() {
        let (full, filled) = sync_channel(2);
        let (used, hash_pool, cancel) = (AtomicU64::new(0), HashPool::default(), Cancel::default());
        let limit = UnpackLimit { max: 100, used: &used, layer: None, ratio: 1 };
        let mut chunks = ChunkReader::new(filled, channel().0, limit, hash_pool.stream(), &cancel);
        full.send(vec![7; 2]).unwrap();
        full.send(vec![7; 2]).unwrap();
        assert_eq!(chunks.read(&mut [0; 2]).unwrap(), 2);
        cancel.cancel();
        chunks.read(&mut [0; 2]).unwrap_err();
        assert!(matches!(chunks.failure(), Some(LayerError::Cancelled(_))));
        assert_eq!(used.load(Ordering::Relaxed), 2);
    }
}
