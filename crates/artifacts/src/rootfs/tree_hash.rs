//! BLAKE3 digest of an image whose bytes are written in any order.
//!
//! BLAKE3 is a tree hash: aligned pieces are hashed separately, most of them right after they were written and are
//! still in the cache, and combined at the end. The result is the BLAKE3 of the file, as `b3sum` prints it.

use super::block_layout::{BLOCK, Run};
use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use std::{fs::File, io, os::unix::fs::FileExt, panic::resume_unwind, thread};

/// Size of a piece in bytes: a power of two of at least 1,024, as a BLAKE3 subtree requires.
pub(super) const PIECE: usize = 256 << 10;
/// Size of a piece in blocks.
pub(super) const PIECE_BLOCKS: u64 = PIECE as u64 / BLOCK;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// Hashes of the pieces of a file, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct TreeHash {
    pieces: Vec<PieceState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum PieceState {
    /// Never written.
    #[default]
    Zeros,
    /// Written since it was hashed; has to be read again.
    Changed,
    Hashed(ChainingValue),
}

/// Hashes a whole piece that begins at byte `at` of its file.
pub(super) fn hash(at: u64, piece: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(at).update(piece).finalize_non_root()
}

impl TreeHash {
    /// Records the hash of the piece that begins at byte `at`.
    pub(super) fn hashed(&mut self, at: u64, hash: ChainingValue) {
        *self.state(at / PIECE as u64) = PieceState::Hashed(hash);
    }

    /// Records that blocks were turned into a hole.
    pub(super) fn cleared(&mut self, blocks: Run) {
        let end = blocks.start + blocks.len;
        let (first, last) = (blocks.start.div_ceil(PIECE_BLOCKS), end / PIECE_BLOCKS);
        if first >= last {
            return self.changed(blocks);
        }
        (first..last).for_each(|piece| *self.state(piece) = PieceState::Zeros);
        self.changed(Run { start: blocks.start, len: first * PIECE_BLOCKS - blocks.start });
        self.changed(Run { start: last * PIECE_BLOCKS, len: end - last * PIECE_BLOCKS });
    }

    /// Records that blocks were written.
    pub(super) fn changed(&mut self, blocks: Run) {
        if blocks.len > 0 {
            for piece in blocks.start / PIECE_BLOCKS..=(blocks.start + blocks.len - 1) / PIECE_BLOCKS {
                *self.state(piece) = PieceState::Changed;
            }
        }
    }

    fn state(&mut self, piece: u64) -> &mut PieceState {
        let piece = usize::try_from(piece).expect("an image has fewer pieces than memory has bytes");
        if self.pieces.len() <= piece {
            self.pieces.resize(piece + 1, PieceState::Zeros);
        }
        &mut self.pieces[piece]
    }

    /// Returns the digest of `file`, which has `len` bytes, more than one piece.
    pub(super) fn digest(mut self, file: &File, len: u64) -> io::Result<[u8; 32]> {
        let mut hashes = vec![ChainingValue::default(); piece_count(len)];
        let mut unread = Vec::new();
        for (hash, at) in hashes.iter_mut().zip((0..len).step_by(PIECE)) {
            let bytes = usize::try_from(len - at).map_or(PIECE, |left| left.min(PIECE));
            match *self.state(at / PIECE as u64) {
                PieceState::Hashed(known) if bytes == PIECE => *hash = known,
                PieceState::Zeros => *hash = self::hash(at, &ZEROS[..bytes]),
                PieceState::Hashed(_) | PieceState::Changed => unread.push((hash, at, bytes)),
            }
        }
        let half = unread.len() / 2;
        let (first, second) = unread.split_at_mut(half);
        thread::scope(|scope| {
            let other = scope.spawn(|| read_all(file, second));
            read_all(file, first)?;
            other.join().unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        let left = left_subtree_len(len);
        let (first, second) = hashes.split_at(piece_count(left));
        Ok(merge_subtrees_root(&merged(first, left), &merged(second, len - left), Mode::Hash).into())
    }
}

/// Reads and hashes pieces, each given with its first byte and its length.
fn read_all(file: &File, pieces: &mut [(&mut ChainingValue, u64, usize)]) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    pieces.iter_mut().try_for_each(|(hash, at, bytes)| {
        file.read_exact_at(&mut buffer[..*bytes], *at)?;
        **hash = self::hash(*at, &buffer[..*bytes]);
        Ok(())
    })
}

fn piece_count(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(PIECE as u64)).expect("they are in memory")
}

/// Combines the hashes of the pieces of a part of the file, `len` bytes long.
fn merged(hashes: &[ChainingValue], len: u64) -> ChainingValue {
    match hashes {
        [one] => *one,
        several => {
            let left = left_subtree_len(len);
            let (first, second) = several.split_at(piece_count(left));
            merge_subtrees_non_root(&merged(first, left), &merged(second, len - left), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_whole_file() {
        for len in [PIECE + 1, 5 * PIECE, 9 * PIECE + 4096, 16 * PIECE] {
            let file = tempfile::tempfile().unwrap();
            let mut whole = vec![0; len];
            let mut tree_hash = TreeHash::default();
            for (n, piece) in whole.chunks_mut(PIECE).enumerate().filter(|(n, _)| n % 3 != 1) {
                piece.iter_mut().enumerate().for_each(|(at, byte)| *byte = u8::try_from((at + n) % 251).unwrap());
            }
            file.write_all_at(&whole, 0).unwrap();
            for (n, piece) in whole.chunks(PIECE).enumerate() {
                let at = (n * PIECE) as u64;
                match n % 3 {
                    0 if piece.len() == PIECE => tree_hash.hashed(at, hash(at, piece)),
                    1 => {}
                    _ => tree_hash.changed(Run { start: n as u64 * PIECE_BLOCKS + 3, len: 2 }),
                }
            }
            assert_eq!(tree_hash.digest(&file, len as u64).unwrap(), *blake3::hash(&whole).as_bytes(), "{len}");
        }
    }

    #[test]
    fn what_changed_after_it_was_hashed_is_read_again() {
        let file = tempfile::tempfile().unwrap();
        let whole = vec![7; 2 * PIECE];
        file.write_all_at(&whole, 0).unwrap();
        let mut tree_hash = TreeHash::default();
        tree_hash.hashed(0, [1; 32]);
        tree_hash.hashed(PIECE as u64, [1; 32]);
        tree_hash.changed(Run { start: PIECE_BLOCKS - 1, len: 2 });
        assert_eq!(tree_hash.digest(&file, 2 * PIECE as u64).unwrap(), *blake3::hash(&whole).as_bytes());
    }

    #[test]
    fn a_hole_is_zeros_whatever_was_there() {
        for (from, blocks) in [(0, 64), (1, 63), (0, 65), (3, 200), (70, 20), (60, 8), (63, 129), (128, 128)] {
            let file = tempfile::tempfile().unwrap();
            let mut whole = vec![7; 4 * PIECE];
            let mut tree_hash = TreeHash::default();
            whole.chunks(PIECE).zip((0..).step_by(PIECE)).for_each(|(piece, at)| tree_hash.hashed(at, hash(at, piece)));
            let block = usize::try_from(BLOCK).unwrap();
            whole[from * block..(from + blocks) * block].fill(0);
            file.write_all_at(&whole, 0).unwrap();
            tree_hash.cleared(Run { start: from as u64, len: blocks as u64 });
            let digest = tree_hash.digest(&file, whole.len() as u64).unwrap();
            assert_eq!(digest, *blake3::hash(&whole).as_bytes(), "{from} {blocks}");
        }
    }
}
