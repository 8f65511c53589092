//! SHA-256 of several concurrent streams, two of them side by side.
//!
//! Hashing two streams side by side ([`two_lane`]) hashes 1.25 to 1.6 times the bytes of one stream in the same time;
//! the lower number is of a processor whose SHA unit is the bottleneck. A pull has two streams per layer: the bytes as
//! they arrive, and what they decompress to. Neither is hashed at once: a few buffers of each stream ([`HashStream`])
//! are queued, so that a thread whose queue is full hashes one of them beside a buffer of another stream, the one with
//! the longest queue. So the hashing is done by whichever thread is ahead of the others. `finish` drains the queue.

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

/// State of a [`HashStream`].
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
pub(super) struct HashStream<'a> {
    pool: &'a HashPool,
    /// Index of the stream in the pool.
    index: usize,
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
    /// Adds a stream.
    pub(super) fn stream(&self) -> HashStream<'_> {
        let mut streams = self.streams();
        streams.push(StreamState { hash: Some(Hash::new()), ..StreamState::default() });
        HashStream { pool: self, index: streams.len() - 1, partial: Vec::new() }
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
            match &mut other {
                Some(other) => own.hash_beside(other),
                None => own.hash_alone(),
            }
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
    /// Hashes blocks of this buffer and of another stream's side by side, as many as both have.
    fn hash_beside(&mut self, other: &mut Self) {
        let (own, beside) = (self.buffer.unhashed(), other.buffer.unhashed());
        let done = two_lane::compress((&mut self.hash.state, own), (&mut other.hash.state, beside));
        self.hashed(done);
        other.hashed(done);
    }

    /// Hashes the rest of this buffer.
    fn hash_alone(&mut self) {
        let blocks = self.buffer.unhashed();
        compress256(&mut self.hash.state, blocks);
        self.hashed(blocks.len());
    }

    /// Counts blocks that were hashed.
    fn hashed(&mut self, blocks: usize) {
        self.buffer.hashed += blocks * BLOCK;
        self.hash.bytes += (blocks * BLOCK) as u64;
    }
}

impl Hash {
    fn new() -> Self {
        Self { state: INITIAL, bytes: 0 }
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

impl HashStream<'_> {
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

impl Drop for HashStream<'_> {
    fn drop(&mut self) {
        // Nobody needs the digest any more, so other threads need not hash the rest.
        let stream = &mut self.pool.streams()[self.index];
        stream.queued.clear();
        stream.hashed.clear();
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
                    let mut stream = pool.stream();
                    let mut returned = 0;
                    for (n, buffer) in all.chunks(LEN).enumerate() {
                        returned += stream.push(buffer.to_vec()).len();
                        let kept = n + 1 - returned;
                        assert!(kept <= 2 * MAX_QUEUED + 1, "{kept}: the queue is bounded, and one is being hashed");
                    }
                    assert_eq!(stream.finish(), Digest::of(&all), "{len} bytes");
                });
            }
        });
    }

    #[test]
    fn buffers_are_hashed_beside_those_of_the_longest_queue() {
        let pool = HashPool::default();
        let (mut short, mut long, mut full) = (pool.stream(), pool.stream(), pool.stream());
        let all = content((MAX_QUEUED + 1) * LEN, 1);
        short.push(all[..LEN].to_vec());
        all[..3 * LEN].chunks(LEN).for_each(|buffer| assert!(long.push(buffer.to_vec()).is_empty(), "it is queued"));
        let returned: usize = all.chunks(LEN).map(|buffer| full.push(buffer.to_vec()).len()).sum();
        let queued = |stream: &HashStream<'_>| pool.streams()[stream.index].queued.len();
        assert_eq!((returned, queued(&short), queued(&long), queued(&full)), (1, 1, 2, MAX_QUEUED));
        assert_eq!(
            (short.finish(), long.finish(), full.finish()),
            (Digest::of(&all[..LEN]), Digest::of(&all[..3 * LEN]), Digest::of(&all))
        );
    }

    #[test]
    fn a_longer_buffer_beside_a_shorter_one_is_hashed_to_its_end() {
        let pool = HashPool::default();
        let (mut short, mut long) = (pool.stream(), pool.stream());
        let (first, second) = (content(LEN / 4, 1), content(3 * LEN, 2));
        short.push(first.clone());
        second.chunks(LEN).for_each(|buffer| drop(long.push(buffer.to_vec())));
        assert_eq!((long.finish(), short.finish()), (Digest::of(&second), Digest::of(&first)));
    }

    #[test]
    fn pieces_of_any_length_follow_each_other() {
        let pool = HashPool::default();
        let mut stream = pool.stream();
        let all = content(3 * LEN, 1);
        let mut rest = &all[..];
        for len in [0, 64, 1, 64, 63, 128, 1, 1, LEN, LEN] {
            let (now, later) = rest.split_at(len);
            stream.push(now.to_vec());
            rest = later;
        }
        assert_eq!(stream.finish(), Digest::of(&all[..all.len() - rest.len()]));
    }

    #[test]
    fn a_dropped_stream_blocks_no_other() {
        let pool = HashPool::default();
        let (mut one, mut other) = (pool.stream(), pool.stream());
        one.push(content(LEN, 1));
        drop(one);
        let all = content(10 * LEN, 2);
        all.chunks(LEN).for_each(|buffer| drop(other.push(buffer.to_vec())));
        assert_eq!(other.finish(), Digest::of(&all));
    }
}
