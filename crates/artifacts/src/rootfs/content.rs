//! Contents on their way from a layer's stream to their final blocks.
//!
//! Nothing is spooled: a file begins at the next free block of the hand its layer was dealt, small ones side by side,
//! and what is full is hashed and written at once. Long runs of zeros take no blocks. Where the layer's entry is hidden
//! by a later one, its blocks are given back when the image is finished.

use super::{
    allocator::TurnAllocator,
    block_layout::{self, BLOCK, BLOCK_BYTES, MAX_BYTES, Run},
    error::RootfsError,
    spool::{IMAGE, Segment},
    tree_hash::{PIECE, PIECE_BLOCKS, hash},
};
use crate::job::Cancel;
use blake3::hazmat::ChainingValue;
use rustix::fs::{FallocateFlags, fallocate};
use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

/// Fewer zeros than this in a row are stored.
const MIN_HOLE: u64 = 64 << 10;
/// Most pieces of one file; what follows is stored as it is.
const MAX_PIECES: usize = 50_000;

static ZERO_BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// An image file that layers write into.
#[derive(Debug)]
pub struct TargetImage {
    pub(super) file: File,
    pub(super) dealer: TurnAllocator,
}

impl TargetImage {
    /// For one layer that is read for nothing but whether it is what it is said to be: what it writes is nowhere.
    pub fn discard(layer: usize) -> Result<Arc<Self>, RootfsError> {
        let file = File::options().write(true).open("/dev/null").map_err(RootfsError::io("open /dev/null"))?;
        Ok(Arc::new(Self { file, dealer: TurnAllocator::new([layer], 1) }))
    }

    /// Who writes the contents of a layer, which looks at `cancel` when it has to wait for others.
    pub fn content_writer(self: &Arc<Self>, layer: usize, cancel: &Cancel) -> ContentWriter {
        ContentWriter::new(Arc::clone(self), layer, cancel)
    }
}

/// Where the content of a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentLocation(pub(super) Extents);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extents {
    /// In one place, all of it.
    One(Segment),
    /// In several places, as (offset in the file, segment) in order; what is not among them is zeros.
    Several { len: u64, data: Box<[(u64, Segment)]> },
}

impl ContentLocation {
    /// How many bytes of it take room.
    pub(super) fn bytes(&self) -> u64 {
        match &self.0 {
            Extents::One(segment) => segment.len,
            Extents::Several { data, .. } => data.iter().map(|(_, segment)| segment.len).sum(),
        }
    }
}

/// What a layer left in the image.
#[derive(Debug)]
pub struct WrittenContent {
    /// The pieces it filled: at which byte they begin, and their hashes.
    pub(super) hashes: Vec<(u64, ChainingValue)>,
}

/// Writes the contents of one layer.
#[derive(Debug)]
pub struct ContentWriter {
    site: Arc<TargetImage>,
    layer: usize,
    cancel: Cancel,
    /// What is left of the hand.
    hand: Run,
    /// The piece at hand, the block it begins with, and how much of it is filled.
    piece: Vec<u8>,
    at: u64,
    filled: usize,
    hashes: Vec<(u64, ChainingValue)>,
    file: Open,
}

/// The file at hand.
#[derive(Debug, Default)]
struct Open {
    size: u64,
    /// How much of it came, but for `part`.
    at: u64,
    /// The beginning of a block.
    part: Vec<u8>,
    /// Zeros before `at` that are not stored, whole blocks but for the end of the file.
    zeros: u64,
    data: Vec<(u64, Segment)>,
}

impl Open {
    /// Whether holes are looked for.
    fn looks(&self) -> bool {
        self.size >= 2 * MIN_HOLE
    }
}

impl ContentWriter {
    fn new(site: Arc<TargetImage>, layer: usize, cancel: &Cancel) -> Self {
        Self {
            site,
            layer,
            cancel: cancel.clone(),
            hand: Run { start: 0, len: 0 },
            piece: Vec::new(),
            at: 0,
            filled: 0,
            hashes: Vec::new(),
            file: Open::default(),
        }
    }

    /// A file of `size` bytes follows.
    pub fn begin(&mut self, size: u64) {
        self.file.size = size;
    }

    /// Some of its bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), RootfsError> {
        if !self.file.looks() {
            return self.append(bytes);
        }
        while !bytes.is_empty() {
            if self.file.part.is_empty()
                && let Some((block, rest)) = bytes.split_first_chunk::<{ BLOCK_BYTES }>()
            {
                self.block(block)?;
                bytes = rest;
                continue;
            }
            let missing = (BLOCK_BYTES - self.file.part.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(missing);
            self.file.part.extend_from_slice(now);
            bytes = rest;
            if self.file.part.len() == BLOCK_BYTES {
                self.part()?;
            }
        }
        Ok(())
    }

    /// All of it came; where it is.
    pub fn end(&mut self) -> Result<ContentLocation, RootfsError> {
        if !self.file.part.is_empty() {
            self.part()?;
        }
        if self.file.zeros < MIN_HOLE {
            self.zeros()?;
        }
        // The next file begins with a block.
        let filled = self.filled.next_multiple_of(BLOCK_BYTES);
        if filled > self.filled {
            self.piece[self.filled..filled].fill(0);
            self.filled = filled;
        }
        let Open { size, data, .. } = std::mem::take(&mut self.file);
        Ok(ContentLocation(match data.as_slice() {
            [] if size == 0 => Extents::One(Segment { source: IMAGE, offset: 0, len: 0 }),
            [(0, whole)] if whole.len == size => Extents::One(*whole),
            _ => Extents::Several { len: size, data: data.into_boxed_slice() },
        }))
    }

    /// The layer has ended.
    pub fn finish(mut self) -> Result<WrittenContent, RootfsError> {
        self.flush()?;
        self.site.dealer.end(self.layer);
        Ok(WrittenContent { hashes: self.hashes })
    }

    /// What was kept of a block, now that all of it is there.
    fn part(&mut self) -> Result<(), RootfsError> {
        let mut part = std::mem::take(&mut self.file.part);
        self.block(&part)?;
        part.clear();
        self.file.part = part;
        Ok(())
    }

    /// A block of the file, or the end of it.
    fn block(&mut self, block: &[u8]) -> Result<(), RootfsError> {
        if block == &ZERO_BLOCK[..block.len()] {
            self.file.zeros += block.len() as u64;
            self.file.at += block.len() as u64;
            return Ok(());
        }
        if self.file.zeros < MIN_HOLE || self.file.data.len() >= MAX_PIECES {
            self.zeros()?;
        }
        self.file.zeros = 0;
        self.append(block)
    }

    /// Stores the zeros that were left out.
    fn zeros(&mut self) -> Result<(), RootfsError> {
        let mut left = std::mem::take(&mut self.file.zeros);
        self.file.at -= left;
        while left > 0 {
            let len = left.min(BLOCK);
            self.append(&ZERO_BLOCK[..usize::try_from(len).expect("at most a block")])?;
            left -= len;
        }
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), RootfsError> {
        while !bytes.is_empty() {
            self.room()?;
            let len = (PIECE - self.filled).min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            self.piece[self.filled..self.filled + len].copy_from_slice(now);
            let (at, offset, len) = (self.file.at, self.at * BLOCK + self.filled as u64, len as u64);
            match self.file.data.last_mut() {
                Some((from, segment)) if *from + segment.len == at && segment.offset + segment.len == offset => {
                    segment.len += len;
                }
                _ => self.file.data.push((at, Segment { source: IMAGE, offset, len })),
            }
            self.file.at += len;
            self.filled += now.len();
            bytes = rest;
        }
        Ok(())
    }

    /// Makes room for at least a byte.
    fn room(&mut self) -> Result<(), RootfsError> {
        if self.filled < PIECE && !self.piece.is_empty() {
            return Ok(());
        }
        self.flush()?;
        if self.hand.len == 0 {
            self.hand = self.site.dealer.deal(self.layer, &self.cancel)?;
            if (self.hand.start + self.hand.len) * BLOCK > MAX_BYTES / 2 {
                return Err(RootfsError::TooManyBytes(MAX_BYTES / 2));
            }
            self.reserve();
        }
        self.piece.resize(PIECE, 0);
        self.at = self.hand.start;
        self.hand.start += PIECE_BLOCKS;
        self.hand.len -= PIECE_BLOCKS;
        Ok(())
    }

    /// Asks the file system for the blocks of the hand at once: to give them one by one, as they are written, costs it more. What
    /// is left of them in the end is given back with all other gaps.
    fn reserve(&self) {
        for Run { start, len } in block_layout::allocatable_runs(self.hand.start, self.hand.len) {
            // Where it has too few left, writing says so. The file gets longer, for beyond its end nothing is given back.
            let _ = fallocate(&self.site.file, FallocateFlags::empty(), start * BLOCK, len * BLOCK);
        }
    }

    /// Writes the piece at hand.
    fn flush(&mut self) -> Result<(), RootfsError> {
        if self.filled == 0 {
            return Ok(());
        }
        // Hands and kept blocks are whole pieces, so a piece is in one place.
        let at = block_layout::nth_allocatable(self.at).start * BLOCK;
        let write = self.site.file.write_all_at(&self.piece[..self.filled], at);
        write.map_err(RootfsError::io("write the image"))?;
        self.piece[self.filled..].fill(0);
        self.hashes.push((at, hash(at, &self.piece)));
        self.filled = 0;
        Ok(())
    }
}
