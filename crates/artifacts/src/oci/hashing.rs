//! The SHA-256 of several streams that come at once, two of them at a time.
//!
//! Two streams hashed side by side take little longer than one ([`two`]), and a pull has several: what layers come as, and
//! what they unpack to. So a stream does not hash at once what it is given: it lays it down, and whoever lays something
//! down and finds something of another stream hashes both. No stream leaves more than one piece lying, and in the end
//! none.

mod two;

use super::Digest;
use sha2::block_api::compress256;
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};
use two::BLOCK;

/// Pieces of a stream that lie and wait for company at most: more of them are no longer in the cache when it comes.
const LYING: usize = 1;
/// Bytes of a piece of what is copied: whole blocks.
const PIECE: usize = 256 << 10;
/// What a hash begins with (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Bytes at the end of the last block that say the length.
const LENGTH: usize = 8;

/// Where streams meet.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    lanes: Mutex<Vec<Lane>>,
    /// A hash that was away is back.
    returned: Condvar,
}

/// What is known of a stream.
#[derive(Debug, Default)]
struct Lane {
    /// Its hash; away while somebody works at it, and when the stream has ended.
    hash: Option<Hash>,
    /// Pieces in their order, each of whole blocks.
    lying: VecDeque<Vec<u8>>,
    /// Pieces that were hashed.
    spent: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Hash {
    state: [u32; 8],
    /// Bytes that came to it.
    bytes: u64,
}

/// A stream that is hashed.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    pairs: &'a Pairs,
    lane: usize,
    /// What is no whole piece yet.
    part: Vec<u8>,
}

/// A piece and the hash it comes to.
struct Work {
    lane: usize,
    hash: Hash,
    piece: Vec<u8>,
}

impl Pairs {
    /// One more stream.
    pub(super) fn stream(&self) -> Stream<'_> {
        let mut lanes = self.lanes();
        lanes.push(Lane { hash: Some(Hash { state: INITIAL, bytes: 0 }), ..Lane::default() });
        Stream { pairs: self, lane: lanes.len() - 1, part: Vec::new() }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes what lies of a stream: as long as it has company, and then alone until no more than `most` pieces lie. Where
    /// that is none, the stream's hash is back as well.
    fn clear(&self, lane: usize, most: usize) -> MutexGuard<'_, Vec<Lane>> {
        let mut lanes = self.lanes();
        loop {
            let lying = lanes[lane].lying.len();
            let Some(mine) = lanes[lane].work(lane) else {
                if lying <= most && (most > 0 || lanes[lane].hash.is_some()) {
                    return lanes;
                }
                lanes = self.returned.wait(lanes).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let other = (0..lanes.len()).find_map(|other| lanes[other].work(other));
            if other.is_none() && lying <= most {
                lanes[lane].leave(mine);
                return lanes;
            }
            drop(lanes);
            let done = hashed(mine, other);
            lanes = self.lanes();
            for Work { lane, hash, piece } in done {
                lanes[lane].hash = Some(hash);
                lanes[lane].spent.push(piece);
            }
            self.returned.notify_all();
        }
    }
}

impl Lane {
    /// Takes its next piece and its hash, where both are here.
    fn work(&mut self, lane: usize) -> Option<Work> {
        let hash = self.hash.take_if(|_| !self.lying.is_empty())?;
        self.lying.pop_front().map(|piece| Work { lane, hash, piece })
    }

    /// Puts them back.
    fn leave(&mut self, work: Work) {
        self.hash = Some(work.hash);
        self.lying.push_front(work.piece);
    }
}

fn hashed(mut one: Work, other: Option<Work>) -> impl Iterator<Item = Work> {
    one.hash.bytes += one.piece.len() as u64;
    let other = other.map(|mut other| {
        other.hash.bytes += other.piece.len() as u64;
        let (first, second) = (one.piece.as_chunks().0, other.piece.as_chunks().0);
        two::compress((&mut one.hash.state, first), (&mut other.hash.state, second));
        other
    });
    if other.is_none() {
        compress256(&mut one.hash.state, one.piece.as_chunks().0);
    }
    [Some(one), other].into_iter().flatten()
}

impl Stream<'_> {
    /// These bytes are next; they are copied.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == PIECE {
                let piece = std::mem::take(&mut self.part);
                self.part = self.lay(piece).pop().unwrap_or_else(|| Vec::with_capacity(PIECE));
                self.part.clear();
            }
        }
    }

    /// These bytes are next. Buffers that came before are given back, to be filled again.
    pub(super) fn give(&mut self, piece: Vec<u8>) -> Vec<Vec<u8>> {
        if piece.is_empty() {
            return Vec::new();
        }
        if self.part.is_empty() && piece.len().is_multiple_of(BLOCK) {
            return self.lay(piece);
        }
        self.update(&piece);
        vec![piece]
    }

    fn lay(&self, piece: Vec<u8>) -> Vec<Vec<u8>> {
        self.pairs.lanes()[self.lane].lying.push_back(piece);
        let mut lanes = self.pairs.clear(self.lane, LYING);
        std::mem::take(&mut lanes[self.lane].spent)
    }

    /// That was all; the digest of it.
    pub(super) fn finish(mut self) -> Digest {
        let hash = self.pairs.clear(self.lane, 0)[self.lane].hash.take();
        let Hash { mut state, bytes } = hash.expect("it is back once nothing lies");
        let bytes = bytes + self.part.len() as u64;
        // A one, zeros, and the length in bits fill the last block.
        self.part.push(0x80);
        let end = (self.part.len() + LENGTH).next_multiple_of(BLOCK);
        self.part.resize(end - LENGTH, 0);
        self.part.extend_from_slice(&(bytes * 8).to_be_bytes());
        compress256(&mut state, self.part.as_chunks().0);
        Digest::of_state(state)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // Nobody wants to know any more.
        let lane = &mut self.pairs.lanes()[self.lane];
        lane.lying.clear();
        lane.spent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn content(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from((n * (2 * seed + 1) + n / 251) % 256).unwrap()).collect()
    }

    #[test]
    fn streams_at_once_come_to_what_each_comes_to_alone() {
        let ends = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, PIECE - 1, PIECE, PIECE + 1];
        let lens: Vec<usize> =
            ends.into_iter().chain([5 * PIECE, 9 * PIECE + 77, 12 * PIECE, 20 * PIECE + 64]).collect();
        let pairs = Pairs::default();
        thread::scope(|scope| {
            for (n, &len) in lens.iter().enumerate() {
                let pairs = &pairs;
                scope.spawn(move || {
                    let all = content(len, n);
                    let (mut copied, mut given) = (pairs.stream(), pairs.stream());
                    for piece in all.chunks(10_007) {
                        copied.update(piece);
                    }
                    let mut back = 0;
                    for piece in all.chunks(PIECE) {
                        back += given.give(piece.to_vec()).len();
                    }
                    let away = all.chunks(PIECE).len() - back;
                    assert!(away <= LYING + 1, "{away}: no more lies than may, and one is at work");
                    assert_eq!((copied.finish(), given.finish()), (Digest::of(&all), Digest::of(&all)), "{len} bytes");
                });
            }
        });
    }

    #[test]
    fn pieces_of_any_length_follow_each_other() {
        let pairs = Pairs::default();
        let mut stream = pairs.stream();
        let all = content(3 * PIECE, 1);
        let mut rest = &all[..];
        for len in [0, 64, 1, 64, 63, 128, PIECE, PIECE] {
            let (now, later) = rest.split_at(len);
            stream.give(now.to_vec());
            rest = later;
        }
        assert_eq!(stream.finish(), Digest::of(&all[..all.len() - rest.len()]));
    }

    #[test]
    fn a_stream_that_is_given_up_keeps_nobody() {
        let pairs = Pairs::default();
        let (mut one, mut other) = (pairs.stream(), pairs.stream());
        one.give(content(PIECE, 1));
        drop(one);
        let all = content(10 * PIECE, 2);
        all.chunks(PIECE).for_each(|piece| drop(other.give(piece.to_vec())));
        assert_eq!(other.finish(), Digest::of(&all));
    }
}
