//! The SHA-256 of several streams that come at once, two of them at a time.
//!
//! Two streams hashed side by side take little longer than one ([`two_lane`]), and a pull has several: what layers come as, and
//! what they unpack to. What they unpack to, which is most of it, is not hashed at once: a few pieces of each such stream
//! lie ([`BufferedStream`]), and are there as company for what comes next, of other streams and of those whose bytes are hashed as
//! they pass ([`InPlaceStream`]). In the end nothing lies.

mod two_lane;

use super::Digest;
use sha2::block_api::compress256;
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};
use two_lane::BLOCK;

/// Pieces of a stream that lie and wait for company: as many as one thread makes before another one's turn comes. Twice as
/// many while somebody is at one of them.
const LYING: usize = 6;
/// What a hash begins with (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Bytes at the end of the last block that say the length.
const LENGTH: usize = 8;

/// Where streams meet.
#[derive(Debug, Default)]
pub(super) struct HashPool {
    lanes: Mutex<Vec<Lane>>,
    /// A hash that was away is back.
    returned: Condvar,
}

/// What is known of a stream.
#[derive(Debug, Default)]
struct Lane {
    /// Its hash; away while somebody works at it, and when the stream has ended.
    hash: Option<Hash>,
    /// Pieces in their order.
    lying: VecDeque<Piece>,
    /// Pieces that were hashed.
    spent: Vec<Vec<u8>>,
    /// Its own thread waits for the hash.
    awaited: bool,
}

#[derive(Debug)]
struct Hash {
    state: [u32; 8],
    /// Bytes that came to it.
    bytes: u64,
}

/// Whole blocks, and how many of them were hashed.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    hashed: usize,
}

/// A stream whose bytes come in buffers that it keeps for a while.
#[derive(Debug)]
pub(super) struct BufferedStream<'a> {
    hash_pool: &'a HashPool,
    lane: usize,
    /// What is no whole block yet.
    part: Vec<u8>,
}

/// A stream whose bytes are hashed where they are, beside what lies of others.
#[derive(Debug)]
pub(super) struct InPlaceStream<'a> {
    hash_pool: &'a HashPool,
    hash: Hash,
    /// What is no whole block yet.
    part: Vec<u8>,
}

/// A piece and the hash it comes to.
struct Work {
    lane: usize,
    hash: Hash,
    piece: Piece,
}

impl HashPool {
    /// One more stream of buffers.
    pub(super) fn buffered_stream(&self) -> BufferedStream<'_> {
        let mut lanes = self.lanes();
        lanes.push(Lane { hash: Some(Hash::new()), ..Lane::default() });
        BufferedStream { hash_pool: self, lane: lanes.len() - 1, part: Vec::new() }
    }

    /// One more stream of bytes that pass.
    pub(super) fn in_place_stream(&self) -> InPlaceStream<'_> {
        InPlaceStream { hash_pool: self, hash: Hash::new(), part: Vec::new() }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes what lies of a stream until no more than `most` pieces do. Where that is none, the stream's hash is back as
    /// well.
    fn clear(&self, lane: usize, most: usize) -> MutexGuard<'_, Vec<Lane>> {
        let mut lanes = self.lanes();
        loop {
            let Lane { hash, lying, .. } = &lanes[lane];
            let bearable = if hash.is_some() { most } else { 2 * most };
            if lying.len() <= bearable && (most > 0 || hash.is_some()) {
                return lanes;
            }
            let Some(mut mine) = lanes[lane].work(lane) else {
                lanes[lane].awaited = true;
                lanes = self.returned.wait(lanes).unwrap_or_else(PoisonError::into_inner);
                lanes[lane].awaited = false;
                continue;
            };
            let mut other = company(&mut lanes);
            drop(lanes);
            let done = match &mut other {
                Some(other) => other.beside(&mut mine.hash, mine.piece.left()),
                None => mine.hash.alone(mine.piece.left()),
            };
            mine.piece.hashed += done * BLOCK;
            lanes = self.back([Some(mine), other]);
        }
    }

    /// Puts hashes back, and what is left of the pieces.
    fn back(&self, done: impl IntoIterator<Item = Option<Work>>) -> MutexGuard<'_, Vec<Lane>> {
        let mut lanes = self.lanes();
        let mut awaited = false;
        for Work { lane, hash, piece } in done.into_iter().flatten() {
            let lane = &mut lanes[lane];
            awaited |= lane.awaited;
            lane.hash = Some(hash);
            if piece.left().is_empty() {
                lane.spent.push(piece.bytes);
            } else {
                lane.lying.push_front(piece);
            }
        }
        if awaited {
            self.returned.notify_all();
        }
        lanes
    }
}

/// Takes a piece of the stream of which most lie.
fn company(lanes: &mut [Lane]) -> Option<Work> {
    let able = lanes.iter().enumerate().filter(|(_, lane)| lane.hash.is_some());
    let (lane, _) = able.max_by_key(|(_, lane)| lane.lying.len())?;
    lanes[lane].work(lane)
}

impl Lane {
    /// Takes its next piece and its hash, where both are here.
    fn work(&mut self, lane: usize) -> Option<Work> {
        let hash = self.hash.take_if(|_| !self.lying.is_empty())?;
        self.lying.pop_front().map(|piece| Work { lane, hash, piece })
    }
}

impl Piece {
    fn left(&self) -> &[[u8; BLOCK]] {
        self.bytes[self.hashed..].as_chunks().0
    }
}

impl Work {
    /// Hashes as many blocks of it as there are of another stream, or as it has, and as many of those; how many.
    fn beside(&mut self, hash: &mut Hash, blocks: &[[u8; BLOCK]]) -> usize {
        let done = two_lane::compress((&mut hash.state, blocks), (&mut self.hash.state, self.piece.left()));
        let bytes = done * BLOCK;
        hash.bytes += bytes as u64;
        self.hash.bytes += bytes as u64;
        self.piece.hashed += bytes;
        done
    }
}

impl Hash {
    fn new() -> Self {
        Self { state: INITIAL, bytes: 0 }
    }

    /// Takes blocks without company; how many.
    fn alone(&mut self, blocks: &[[u8; BLOCK]]) -> usize {
        compress256(&mut self.state, blocks);
        self.bytes += (blocks.len() * BLOCK) as u64;
        blocks.len()
    }

    /// What all of it comes to; these bytes are the last.
    fn end(mut self, mut part: Vec<u8>) -> Digest {
        let bytes = self.bytes + part.len() as u64;
        // A one, zeros, and the length in bits fill the last block.
        part.push(0x80);
        let end = (part.len() + LENGTH).next_multiple_of(BLOCK);
        part.resize(end - LENGTH, 0);
        part.extend_from_slice(&(bytes * 8).to_be_bytes());
        compress256(&mut self.state, part.as_chunks().0);
        Digest::of_state(self.state)
    }
}

impl BufferedStream<'_> {
    /// These bytes are next. Buffers that came before are given back, to be filled again.
    pub(super) fn give(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if !self.part.is_empty() {
            bytes.splice(..0, self.part.drain(..));
        }
        self.part = bytes.split_off(bytes.len() - bytes.len() % BLOCK);
        if bytes.is_empty() {
            return Vec::new();
        }
        self.hash_pool.lanes()[self.lane].lying.push_back(Piece { bytes, hashed: 0 });
        let mut lanes = self.hash_pool.clear(self.lane, LYING);
        std::mem::take(&mut lanes[self.lane].spent)
    }

    /// That was all; the digest of it.
    pub(super) fn finish(mut self) -> Digest {
        let hash = self.hash_pool.clear(self.lane, 0)[self.lane].hash.take();
        hash.expect("it is back once nothing lies").end(std::mem::take(&mut self.part))
    }
}

impl Drop for BufferedStream<'_> {
    fn drop(&mut self) {
        // Nobody wants to know any more.
        let lane = &mut self.hash_pool.lanes()[self.lane];
        lane.lying.clear();
        lane.spent.clear();
    }
}

impl InPlaceStream<'_> {
    /// These bytes are next.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        if !self.part.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == BLOCK {
                self.hash.alone(self.part.as_chunks().0);
                self.part.clear();
            }
        }
        let (mut blocks, part) = bytes.as_chunks();
        self.part.extend_from_slice(part);
        while !blocks.is_empty() {
            let other = company(&mut self.hash_pool.lanes());
            let Some(mut other) = other else {
                self.hash.alone(blocks);
                return;
            };
            let done = other.beside(&mut self.hash, blocks);
            blocks = &blocks[done..];
            drop(self.hash_pool.back([Some(other)]));
        }
    }

    /// That was all; the digest of it.
    pub(super) fn finish(self) -> Digest {
        self.hash.end(self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const PIECE: usize = 256 << 10;

    fn content(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from((n * (2 * seed + 1) + n / 251) % 256).unwrap()).collect()
    }

    #[test]
    fn streams_at_once_come_to_what_each_comes_to_alone() {
        let ends = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, PIECE - 1, PIECE, PIECE + 1];
        let lens: Vec<usize> =
            ends.into_iter().chain([5 * PIECE, 9 * PIECE + 77, 12 * PIECE, 40 * PIECE + 64]).collect();
        let hash_pool = HashPool::default();
        thread::scope(|scope| {
            for (n, &len) in lens.iter().enumerate() {
                let hash_pool = &hash_pool;
                scope.spawn(move || {
                    let all = content(len, n);
                    let (mut passing, mut given) = (hash_pool.in_place_stream(), hash_pool.buffered_stream());
                    let mut back = 0;
                    for (n, piece) in all.chunks(PIECE).enumerate() {
                        piece.chunks(10_007).for_each(|bytes| passing.update(bytes));
                        back += given.give(piece.to_vec()).len();
                        let away = n + 1 - back;
                        assert!(away <= 2 * LYING + 1, "{away}: no more lie than may, and one is at work");
                    }
                    assert_eq!((passing.finish(), given.finish()), (Digest::of(&all), Digest::of(&all)), "{len} bytes");
                });
            }
        });
    }

    #[test]
    fn what_lies_is_company_for_what_passes() {
        let hash_pool = HashPool::default();
        let (mut given, mut passing) = (hash_pool.buffered_stream(), hash_pool.in_place_stream());
        let (given_bytes, passed) = (content(2 * PIECE, 1), content(2 * PIECE, 2));
        for piece in given_bytes.chunks(PIECE) {
            assert!(given.give(piece.to_vec()).is_empty(), "they lie");
        }
        // A piece and a half, in pieces that are none of its own.
        passed[..PIECE * 3 / 2].chunks(PIECE / 4).for_each(|bytes| passing.update(bytes));
        let hashed: usize = hash_pool.lanes()[given.lane].lying.iter().map(|piece| piece.hashed).sum();
        assert_eq!((hashed, hash_pool.lanes()[given.lane].spent.len()), (PIECE / 2, 1));
        passing.update(&passed[PIECE * 3 / 2..]);
        assert!(hash_pool.lanes()[given.lane].lying.is_empty());
        assert_eq!((given.finish(), passing.finish()), (Digest::of(&given_bytes), Digest::of(&passed)));
    }

    #[test]
    fn pieces_of_any_length_follow_each_other() {
        let hash_pool = HashPool::default();
        let (mut stream, mut passing) = (hash_pool.buffered_stream(), hash_pool.in_place_stream());
        let all = content(3 * PIECE, 1);
        let mut rest = &all[..];
        for len in [0, 64, 1, 64, 63, 128, 1, 1, PIECE, PIECE] {
            let (now, later) = rest.split_at(len);
            stream.give(now.to_vec());
            passing.update(now);
            rest = later;
        }
        let digest = Digest::of(&all[..all.len() - rest.len()]);
        assert_eq!((stream.finish(), passing.finish()), (digest, digest));
    }

    #[test]
    fn a_stream_that_is_given_up_keeps_nobody() {
        let hash_pool = HashPool::default();
        let (mut one, mut other) = (hash_pool.buffered_stream(), hash_pool.buffered_stream());
        one.give(content(PIECE, 1));
        drop(one);
        let all = content(10 * PIECE, 2);
        all.chunks(PIECE).for_each(|piece| drop(other.give(piece.to_vec())));
        assert_eq!(other.finish(), Digest::of(&all));
    }
}
