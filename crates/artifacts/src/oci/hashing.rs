//! SHA-256 of several concurrent streams, two of them side by side.
//!
//! Hashing two streams side by side ([`two_lane`]) hashes 1.25 to 1.6 times the bytes of one stream in the same time;
//! the lower number is of a processor whose SHA unit is the bottleneck. A pull has several streams: the layers as they
//! arrive, and what they decompress to. The decompressed bytes, which are most of all, are not hashed at once: a few
//! buffers of each such stream ([`BufferedStream`]) are queued, so that they can be hashed beside a buffer of another
//! stream or beside bytes that are hashed in place ([`InPlaceStream`]). `finish` drains the queue.

mod two_lane;

use super::Digest;
use sha2::block_api::compress256;
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};
use two_lane::BLOCK;

/// Buffers of a stream that may be queued: as many as one thread fills before another one is scheduled. Twice as many
/// while a thread works on one of them.
const MAX_QUEUED: usize = 6;
/// Initial hash value (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Size of the length field at the end of the last block, in bytes.
const LENGTH: usize = 8;

/// Pool of streams whose buffers are hashed side by side.
#[derive(Debug, Default)]
pub(super) struct HashPool {
    streams: Mutex<Vec<StreamState>>,
    /// Signaled when a hash that a thread waits for was put back.
    returned: Condvar,
}

/// State of a [`BufferedStream`].
#[derive(Debug, Default)]
struct StreamState {
    /// Running hash; `None` while a thread works on it, and after the stream has ended.
    hash: Option<Hash>,
    /// Queued buffers, in order.
    queued: VecDeque<Buffer>,
    /// Buffers that were hashed.
    hashed: Vec<Vec<u8>>,
    /// Whether the stream's own thread waits for the hash.
    awaited: bool,
}

#[derive(Debug)]
struct Hash {
    state: [u32; 8],
    /// Number of hashed bytes.
    bytes: u64,
}

/// Whole blocks, and how many of their bytes were hashed.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    hashed: usize,
}

/// Stream whose bytes come in buffers that it keeps for a while.
#[derive(Debug)]
pub(super) struct BufferedStream<'a> {
    pool: &'a HashPool,
    /// Index of the stream in the pool.
    index: usize,
    /// Bytes that do not fill a block yet.
    partial: Vec<u8>,
}

/// Stream whose bytes are hashed where they are, side by side with queued buffers of other streams.
#[derive(Debug)]
pub(super) struct InPlaceStream<'a> {
    pool: &'a HashPool,
    hash: Hash,
    /// Bytes that do not fill a block yet.
    partial: Vec<u8>,
}

/// Buffer taken from a queue, and the hash it belongs to.
struct Work {
    stream: usize,
    hash: Hash,
    buffer: Buffer,
}

impl HashPool {
    /// Adds a stream of buffers.
    pub(super) fn buffered_stream(&self) -> BufferedStream<'_> {
        let mut streams = self.streams();
        streams.push(StreamState { hash: Some(Hash::new()), ..StreamState::default() });
        BufferedStream { pool: self, index: streams.len() - 1, partial: Vec::new() }
    }

    /// Adds a stream of bytes that are hashed in place.
    pub(super) fn in_place_stream(&self) -> InPlaceStream<'_> {
        InPlaceStream { pool: self, hash: Hash::new(), partial: Vec::new() }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<StreamState>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes queued buffers of a stream until at most `max_queued` are left. With `max_queued` 0 the stream's hash is
    /// back as well when this returns.
    fn drain(&self, stream: usize, max_queued: usize) -> MutexGuard<'_, Vec<StreamState>> {
        let mut streams = self.streams();
        loop {
            let StreamState { hash, queued, .. } = &streams[stream];
            let allowed = if hash.is_some() { max_queued } else { 2 * max_queued };
            if queued.len() <= allowed && (max_queued > 0 || hash.is_some()) {
                return streams;
            }
            let Some(mut own) = streams[stream].take_work(stream) else {
                streams[stream].awaited = true;
                streams = self.returned.wait(streams).unwrap_or_else(PoisonError::into_inner);
                streams[stream].awaited = false;
                continue;
            };
            let mut other = take_longest_queue(&mut streams);
            drop(streams);
            let done = match &mut other {
                Some(other) => other.hash_beside(&mut own.hash, own.buffer.unhashed()),
                None => own.hash.hash_alone(own.buffer.unhashed()),
            };
            own.buffer.hashed += done * BLOCK;
            streams = self.put_back([Some(own), other]);
        }
    }

    /// Puts hashes back, and buffers that are not hashed completely.
    fn put_back(&self, done: impl IntoIterator<Item = Option<Work>>) -> MutexGuard<'_, Vec<StreamState>> {
        let mut streams = self.streams();
        let mut awaited = false;
        for Work { stream, hash, buffer } in done.into_iter().flatten() {
            let stream = &mut streams[stream];
            awaited |= stream.awaited;
            stream.hash = Some(hash);
            if buffer.unhashed().is_empty() {
                stream.hashed.push(buffer.bytes);
            } else {
                stream.queued.push_front(buffer);
            }
        }
        if awaited {
            self.returned.notify_all();
        }
        streams
    }
}

/// Takes a buffer of the stream with the longest queue, of those whose hash is available.
fn take_longest_queue(streams: &mut [StreamState]) -> Option<Work> {
    let available = streams.iter().enumerate().filter(|(_, stream)| stream.hash.is_some());
    let (index, _) = available.max_by_key(|(_, stream)| stream.queued.len())?;
    streams[index].take_work(index)
}

impl StreamState {
    /// Takes the next buffer and the hash, if both are available.
    fn take_work(&mut self, stream: usize) -> Option<Work> {
        let hash = self.hash.take_if(|_| !self.queued.is_empty())?;
        self.queued.pop_front().map(|buffer| Work { stream, hash, buffer })
    }
}

impl Buffer {
    fn unhashed(&self) -> &[[u8; BLOCK]] {
        self.bytes[self.hashed..].as_chunks().0
    }
}

impl Work {
    /// Hashes blocks of this buffer and of another stream side by side, as many as both have. Returns how many of each.
    fn hash_beside(&mut self, hash: &mut Hash, blocks: &[[u8; BLOCK]]) -> usize {
        let done = two_lane::compress((&mut hash.state, blocks), (&mut self.hash.state, self.buffer.unhashed()));
        let bytes = done * BLOCK;
        hash.bytes += bytes as u64;
        self.hash.bytes += bytes as u64;
        self.buffer.hashed += bytes;
        done
    }
}

impl Hash {
    fn new() -> Self {
        Self { state: INITIAL, bytes: 0 }
    }

    /// Hashes blocks of one stream only. Returns how many.
    fn hash_alone(&mut self, blocks: &[[u8; BLOCK]]) -> usize {
        compress256(&mut self.state, blocks);
        self.bytes += (blocks.len() * BLOCK) as u64;
        blocks.len()
    }

    /// Hashes the last bytes and returns the digest.
    fn finish(mut self, mut partial: Vec<u8>) -> Digest {
        let bytes = self.bytes + partial.len() as u64;
        // Padding: a one bit, zeros, and the length in bits (FIPS 180-4, 5.1.1).
        partial.push(0x80);
        let end = (partial.len() + LENGTH).next_multiple_of(BLOCK);
        partial.resize(end - LENGTH, 0);
        partial.extend_from_slice(&(bytes * 8).to_be_bytes());
        compress256(&mut self.state, partial.as_chunks().0);
        Digest::of_state(self.state)
    }
}

impl BufferedStream<'_> {
    /// Appends a buffer. Returns buffers that were hashed, to be filled again.
    pub(super) fn push(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if !self.partial.is_empty() {
            bytes.splice(..0, self.partial.drain(..));
        }
        self.partial = bytes.split_off(bytes.len() - bytes.len() % BLOCK);
        if bytes.is_empty() {
            return Vec::new();
        }
        self.pool.streams()[self.index].queued.push_back(Buffer { bytes, hashed: 0 });
        let mut streams = self.pool.drain(self.index, MAX_QUEUED);
        std::mem::take(&mut streams[self.index].hashed)
    }

    /// Ends the stream and returns its digest.
    pub(super) fn finish(mut self) -> Digest {
        let hash = self.pool.drain(self.index, 0)[self.index].hash.take();
        hash.expect("it is back once the queue is empty").finish(std::mem::take(&mut self.partial))
    }
}

impl Drop for BufferedStream<'_> {
    fn drop(&mut self) {
        // Nobody needs the digest any more, so other threads need not hash the rest.
        let stream = &mut self.pool.streams()[self.index];
        stream.queued.clear();
        stream.hashed.clear();
    }
}

impl InPlaceStream<'_> {
    /// Hashes the next bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if self.partial.len() == BLOCK {
                self.hash.hash_alone(self.partial.as_chunks().0);
                self.partial.clear();
            }
        }
        let (mut blocks, partial) = bytes.as_chunks();
        self.partial.extend_from_slice(partial);
        while !blocks.is_empty() {
            let other = take_longest_queue(&mut self.pool.streams());
            let Some(mut other) = other else {
                self.hash.hash_alone(blocks);
                return;
            };
            let done = other.hash_beside(&mut self.hash, blocks);
            blocks = &blocks[done..];
            drop(self.pool.put_back([Some(other)]));
        }
    }

    /// Ends the stream and returns its digest.
    pub(super) fn finish(self) -> Digest {
        self.hash.finish(self.partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LEN: usize = 256 << 10;

    fn content(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from((n * (2 * seed + 1) + n / 251) % 256).unwrap()).collect()
    }

    #[test]
    fn concurrent_streams_have_the_digests_they_have_alone() {
        let ends = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, LEN - 1, LEN, LEN + 1];
        let lens: Vec<usize> = ends.into_iter().chain([5 * LEN, 9 * LEN + 77, 12 * LEN, 40 * LEN + 64]).collect();
        let pool = HashPool::default();
        thread::scope(|scope| {
            for (n, &len) in lens.iter().enumerate() {
                let pool = &pool;
                scope.spawn(move || {
                    let all = content(len, n);
                    let (mut in_place, mut buffered) = (pool.in_place_stream(), pool.buffered_stream());
                    let mut returned = 0;
                    for (n, buffer) in all.chunks(LEN).enumerate() {
                        buffer.chunks(10_007).for_each(|bytes| in_place.update(bytes));
                        returned += buffered.push(buffer.to_vec()).len();
                        let kept = n + 1 - returned;
                        assert!(kept <= 2 * MAX_QUEUED + 1, "{kept}: the queue is bounded, and one is being hashed");
                    }
                    assert_eq!(
                        (in_place.finish(), buffered.finish()),
                        (Digest::of(&all), Digest::of(&all)),
                        "{len} bytes"
                    );
                });
            }
        });
    }

    #[test]
    fn queued_buffers_are_hashed_beside_bytes_in_place() {
        let pool = HashPool::default();
        let (mut buffered, mut in_place) = (pool.buffered_stream(), pool.in_place_stream());
        let (first, second) = (content(2 * LEN, 1), content(2 * LEN, 2));
        for buffer in first.chunks(LEN) {
            assert!(buffered.push(buffer.to_vec()).is_empty(), "they are queued");
        }
        // As many bytes as one and a half buffers, in pieces of another size.
        second[..LEN * 3 / 2].chunks(LEN / 4).for_each(|bytes| in_place.update(bytes));
        let hashed: usize = pool.streams()[buffered.index].queued.iter().map(|buffer| buffer.hashed).sum();
        assert_eq!((hashed, pool.streams()[buffered.index].hashed.len()), (LEN / 2, 1));
        in_place.update(&second[LEN * 3 / 2..]);
        assert!(pool.streams()[buffered.index].queued.is_empty());
        assert_eq!((buffered.finish(), in_place.finish()), (Digest::of(&first), Digest::of(&second)));
    }

    #[test]
    fn pieces_of_any_length_follow_each_other() {
        let pool = HashPool::default();
        let (mut buffered, mut in_place) = (pool.buffered_stream(), pool.in_place_stream());
        let all = content(3 * LEN, 1);
        let mut rest = &all[..];
        for len in [0, 64, 1, 64, 63, 128, 1, 1, LEN, LEN] {
            let (now, later) = rest.split_at(len);
            buffered.push(now.to_vec());
            in_place.update(now);
            rest = later;
        }
        let digest = Digest::of(&all[..all.len() - rest.len()]);
        assert_eq!((buffered.finish(), in_place.finish()), (digest, digest));
    }

    #[test]
    fn a_dropped_stream_blocks_no_other() {
        let pool = HashPool::default();
        let (mut one, mut other) = (pool.buffered_stream(), pool.buffered_stream());
        one.push(content(LEN, 1));
        drop(one);
        let all = content(10 * LEN, 2);
        all.chunks(LEN).for_each(|buffer| drop(other.push(buffer.to_vec())));
        assert_eq!(other.finish(), Digest::of(&all));
    }
}
