//! The digest of an image whose bytes come in any order.
//!
//! It is the BLAKE3 of the file, which is a tree: aligned pieces are hashed by themselves, most of them while they are
//! still warm from being written, and put together in the end. What `b3sum` says of the file is the same.

use super::block_layout::{BLOCK, Run};
use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use std::{fs::File, io, os::unix::fs::FileExt, panic::resume_unwind, thread};

/// Bytes of a piece. A power of two of at least 1,024, as the tree wants it.
pub(super) const PIECE: usize = 256 << 10;
/// Blocks of a piece.
pub(super) const PIECE_BLOCKS: u64 = PIECE as u64 / BLOCK;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// What is known of the pieces of a file.
#[derive(Debug, Default)]
pub(super) struct TreeHash {
    known: Vec<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Nobody wrote there.
    #[default]
    Zeros,
    /// It is to be read.
    Changed,
    Hashed(ChainingValue),
}

/// The hash of a whole piece that begins at byte `at` of its file.
pub(super) fn hash(at: u64, piece: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(at).update(piece).finalize_non_root()
}

impl TreeHash {
    /// The piece that begins at byte `at` has that hash.
    pub(super) fn hashed(&mut self, at: u64, hash: ChainingValue) {
        *self.state(at / PIECE as u64) = State::Hashed(hash);
    }

    /// Blocks were made a hole.
    pub(super) fn cleared(&mut self, blocks: Run) {
        let end = blocks.start + blocks.len;
        let (first, last) = (blocks.start.div_ceil(PIECE_BLOCKS), end / PIECE_BLOCKS);
        if first >= last {
            return self.changed(blocks);
        }
        (first..last).for_each(|piece| *self.state(piece) = State::Zeros);
        self.changed(Run { start: blocks.start, len: first * PIECE_BLOCKS - blocks.start });
        self.changed(Run { start: last * PIECE_BLOCKS, len: end - last * PIECE_BLOCKS });
    }

    /// Blocks were written.
    pub(super) fn changed(&mut self, blocks: Run) {
        if blocks.len > 0 {
            for piece in blocks.start / PIECE_BLOCKS..=(blocks.start + blocks.len - 1) / PIECE_BLOCKS {
                *self.state(piece) = State::Changed;
            }
        }
    }

    fn state(&mut self, piece: u64) -> &mut State {
        let piece = usize::try_from(piece).expect("an image has fewer pieces than memory has bytes");
        if self.known.len() <= piece {
            self.known.resize(piece + 1, State::Zeros);
        }
        &mut self.known[piece]
    }

    /// The digest of `file`, which has `len` bytes, more than a piece.
    pub(super) fn digest(mut self, file: &File, len: u64) -> io::Result<[u8; 32]> {
        let mut hashes = vec![ChainingValue::default(); pieces(len)];
        let mut left = Vec::new();
        for (hash, at) in hashes.iter_mut().zip((0..len).step_by(PIECE)) {
            let bytes = usize::try_from(len - at).map_or(PIECE, |left| left.min(PIECE));
            match *self.state(at / PIECE as u64) {
                State::Hashed(known) if bytes == PIECE => *hash = known,
                State::Zeros => *hash = self::hash(at, &ZEROS[..bytes]),
                State::Hashed(_) | State::Changed => left.push((hash, at, bytes)),
            }
        }
        let half = left.len() / 2;
        let (first, second) = left.split_at_mut(half);
        thread::scope(|scope| {
            let behind = scope.spawn(|| read_all(file, second));
            read_all(file, first)?;
            behind.join().unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        let left = left_subtree_len(len);
        let (first, second) = hashes.split_at(pieces(left));
        Ok(merge_subtrees_root(&merged(first, left), &merged(second, len - left), Mode::Hash).into())
    }
}

/// Reads pieces, each with the byte it begins at and how many it has, and hashes them.
fn read_all(file: &File, pieces: &mut [(&mut ChainingValue, u64, usize)]) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    pieces.iter_mut().try_for_each(|(hash, at, bytes)| {
        file.read_exact_at(&mut buffer[..*bytes], *at)?;
        **hash = self::hash(*at, &buffer[..*bytes]);
        Ok(())
    })
}

fn pieces(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(PIECE as u64)).expect("they are in memory")
}

/// What the pieces of a part of the file, `len` bytes of it, come to.
fn merged(hashes: &[ChainingValue], len: u64) -> ChainingValue {
    match hashes {
        [one] => *one,
        several => {
            let left = left_subtree_len(len);
            let (first, second) = several.split_at(pieces(left));
            merge_subtrees_non_root(&merged(first, left), &merged(second, len - left), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_whole_file() {
        for len in [PIECE + 1, 5 * PIECE, 9 * PIECE + 4096, 16 * PIECE] {
            let file = tempfile::tempfile().unwrap();
            let mut whole = vec![0; len];
            let mut pieces = TreeHash::default();
            for (n, piece) in whole.chunks_mut(PIECE).enumerate().filter(|(n, _)| n % 3 != 1) {
                piece.iter_mut().enumerate().for_each(|(at, byte)| *byte = u8::try_from((at + n) % 251).unwrap());
            }
            file.write_all_at(&whole, 0).unwrap();
            for (n, piece) in whole.chunks(PIECE).enumerate() {
                let at = (n * PIECE) as u64;
                match n % 3 {
                    0 if piece.len() == PIECE => pieces.hashed(at, hash(at, piece)),
                    1 => {}
                    _ => pieces.changed(Run { start: n as u64 * PIECE_BLOCKS + 3, len: 2 }),
                }
            }
            assert_eq!(pieces.digest(&file, len as u64).unwrap(), *blake3::hash(&whole).as_bytes(), "{len}");
        }
    }

    #[test]
    fn what_changed_after_it_was_hashed_is_read_again() {
        let file = tempfile::tempfile().unwrap();
        let whole = vec![7; 2 * PIECE];
        file.write_all_at(&whole, 0).unwrap();
        let mut pieces = TreeHash::default();
        pieces.hashed(0, [1; 32]);
        pieces.hashed(PIECE as u64, [1; 32]);
        pieces.changed(Run { start: PIECE_BLOCKS - 1, len: 2 });
        assert_eq!(pieces.digest(&file, 2 * PIECE as u64).unwrap(), *blake3::hash(&whole).as_bytes());
    }

    #[test]
    fn a_hole_is_zeros_whatever_was_there() {
        for (from, blocks) in [(0, 64), (1, 63), (0, 65), (3, 200), (70, 20), (60, 8), (63, 129), (128, 128)] {
            let file = tempfile::tempfile().unwrap();
            let mut whole = vec![7; 4 * PIECE];
            let mut pieces = TreeHash::default();
            whole.chunks(PIECE).zip((0..).step_by(PIECE)).for_each(|(piece, at)| pieces.hashed(at, hash(at, piece)));
            let block = usize::try_from(BLOCK).unwrap();
            whole[from * block..(from + blocks) * block].fill(0);
            file.write_all_at(&whole, 0).unwrap();
            pieces.cleared(Run { start: from as u64, len: blocks as u64 });
            let digest = pieces.digest(&file, whole.len() as u64).unwrap();
            assert_eq!(digest, *blake3::hash(&whole).as_bytes(), "{from} {blocks}");
        }
    }
}
