//! Writes the contents of layers to their final blocks while they arrive.
//!
//! Nothing is spooled: a file begins at the next free block of its layer's grant, small files side by side, and a full
//! piece is hashed and written at once. Long runs of zeros take no blocks. Where a later entry hides the layer's, its
//! blocks are given back when the image is finished.

use super::{
    allocator::TurnAllocator,
    block_layout::{self, BLOCK, BLOCK_BYTES, MAX_BYTES, Run},
    error::RootfsError,
    spool::{IMAGE, Segment},
    tree_hash::{PIECE, PIECE_BLOCKS, hash},
    when_full::WhenFull,
};
use crate::job::Cancel;
use blake3::hazmat::ChainingValue;
use rustix::fs::{FallocateFlags, fallocate};
use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

/// Minimum length of a run of zeros that becomes a hole; shorter ones are stored.
const MIN_HOLE: u64 = 64 << 10;
/// Upper bound of the extents of one file; zeros after so many are stored.
const MAX_EXTENTS: usize = 50_000;

static ZERO_BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Image file that layers write into.
#[derive(Debug)]
pub struct TargetImage {
    pub(super) file: File,
    pub(super) when_full: WhenFull,
    pub(super) allocator: TurnAllocator,
}

impl TargetImage {
    /// Sink for a layer that is read only to verify it: writes to `/dev/null`.
    pub fn discard(layer: usize) -> Result<Arc<Self>, RootfsError> {
        let file = File::options().write(true).open("/dev/null").map_err(RootfsError::io("open /dev/null"))?;
        let allocator = TurnAllocator::new([layer], 1);
        Ok(Arc::new(Self { file, when_full: WhenFull::default(), allocator }))
    }

    /// Returns the writer for the contents of a layer. It checks `cancel` while it waits for other layers.
    pub fn content_writer(self: &Arc<Self>, layer: usize, cancel: &Cancel) -> ContentWriter {
        ContentWriter::new(Arc::clone(self), layer, cancel)
    }
}

/// Location of a file's content in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentLocation(pub(super) Extents);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extents {
    /// The whole content in consecutive blocks.
    One(Segment),
    /// Several segments, as (offset in the file, segment) in order; the rest of the `len` bytes are zeros.
    Several { len: u64, data: Box<[(u64, Segment)]> },
}

impl ContentLocation {
    /// Returns how many bytes of the content are stored.
    pub(super) fn bytes(&self) -> u64 {
        match &self.0 {
            Extents::One(segment) => segment.len,
            Extents::Several { data, .. } => data.iter().map(|(_, segment)| segment.len).sum(),
        }
    }
}

/// Record of what a layer wrote into the image.
#[derive(Debug)]
pub struct WrittenContent {
    /// Hashes of the filled pieces, by the byte they begin at.
    pub(super) hashes: Vec<(u64, ChainingValue)>,
}

/// Writes the contents of one layer.
#[derive(Debug)]
pub struct ContentWriter {
    image: Arc<TargetImage>,
    layer: usize,
    cancel: Cancel,
    /// Rest of the current grant.
    grant: Run,
    /// Current piece, the number of its first block and how much of it is filled.
    piece: Vec<u8>,
    at: u64,
    filled: usize,
    hashes: Vec<(u64, ChainingValue)>,
    file: OpenFile,
}

/// File that is being written.
#[derive(Debug, Default)]
struct OpenFile {
    size: u64,
    /// Bytes received, without those in `partial_block`.
    at: u64,
    /// First bytes of a block that is not complete yet.
    partial_block: Vec<u8>,
    /// Zeros before `at` that are not stored yet: whole blocks, except at the end of the file.
    zeros: u64,
    data: Vec<(u64, Segment)>,
}

impl OpenFile {
    /// Whether the file is large enough to have holes.
    fn detects_holes(&self) -> bool {
        self.size >= 2 * MIN_HOLE
    }
}

impl ContentWriter {
    fn new(image: Arc<TargetImage>, layer: usize, cancel: &Cancel) -> Self {
        Self {
            image,
            layer,
            cancel: cancel.clone(),
            grant: Run { start: 0, len: 0 },
            piece: Vec::new(),
            at: 0,
            filled: 0,
            hashes: Vec::new(),
            file: OpenFile::default(),
        }
    }

    /// Begins a file of `size` bytes.
    pub fn begin(&mut self, size: u64) {
        self.file.size = size;
    }

    /// Appends to the current file.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), RootfsError> {
        if !self.file.detects_holes() {
            return self.append(bytes);
        }
        while !bytes.is_empty() {
            if self.file.partial_block.is_empty()
                && let Some((block, rest)) = bytes.split_first_chunk::<{ BLOCK_BYTES }>()
            {
                self.block(block)?;
                bytes = rest;
                continue;
            }
            let missing = (BLOCK_BYTES - self.file.partial_block.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(missing);
            self.file.partial_block.extend_from_slice(now);
            bytes = rest;
            if self.file.partial_block.len() == BLOCK_BYTES {
                self.flush_partial_block()?;
            }
        }
        Ok(())
    }

    /// Ends the current file and returns the location of its content.
    pub fn end(&mut self) -> Result<ContentLocation, RootfsError> {
        if !self.file.partial_block.is_empty() {
            self.flush_partial_block()?;
        }
        if self.file.zeros < MIN_HOLE {
            self.store_zeros()?;
        }
        // The next file begins at a block boundary.
        let filled = self.filled.next_multiple_of(BLOCK_BYTES);
        if filled > self.filled {
            self.piece[self.filled..filled].fill(0);
            self.filled = filled;
        }
        let OpenFile { size, data, .. } = std::mem::take(&mut self.file);
        Ok(ContentLocation(match data.as_slice() {
            [] if size == 0 => Extents::One(Segment { source: IMAGE, offset: 0, len: 0 }),
            [(0, whole)] if whole.len == size => Extents::One(*whole),
            _ => Extents::Several { len: size, data: data.into_boxed_slice() },
        }))
    }

    /// Ends the layer and writes what is buffered.
    pub fn finish(mut self) -> Result<WrittenContent, RootfsError> {
        self.flush()?;
        self.give_back();
        self.image.allocator.end(self.layer);
        Ok(WrittenContent { hashes: self.hashes })
    }

    /// Processes the completed partial block.
    fn flush_partial_block(&mut self) -> Result<(), RootfsError> {
        let mut partial = std::mem::take(&mut self.file.partial_block);
        self.block(&partial)?;
        partial.clear();
        self.file.partial_block = partial;
        Ok(())
    }

    /// Takes a block of the file, or its shorter end.
    fn block(&mut self, block: &[u8]) -> Result<(), RootfsError> {
        if block == &ZERO_BLOCK[..block.len()] {
            self.file.zeros += block.len() as u64;
            self.file.at += block.len() as u64;
            return Ok(());
        }
        if self.file.zeros < MIN_HOLE || self.file.data.len() >= MAX_EXTENTS {
            self.store_zeros()?;
        }
        self.file.zeros = 0;
        self.append(block)
    }

    /// Stores the zeros that were held back.
    fn store_zeros(&mut self) -> Result<(), RootfsError> {
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
            self.make_room()?;
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

    /// Makes room for at least one byte in the current piece.
    fn make_room(&mut self) -> Result<(), RootfsError> {
        if self.filled < PIECE && !self.piece.is_empty() {
            return Ok(());
        }
        self.flush()?;
        if self.grant.len == 0 {
            self.grant = self.image.allocator.allocate(self.layer, &self.cancel)?;
            if (self.grant.start + self.grant.len) * BLOCK > MAX_BYTES / 2 {
                return Err(RootfsError::TooManyBytes(MAX_BYTES / 2));
            }
            self.reserve();
        }
        self.piece.resize(PIECE, 0);
        self.at = self.grant.start;
        self.grant.start += PIECE_BLOCKS;
        self.grant.len -= PIECE_BLOCKS;
        Ok(())
    }

    /// Reserves the blocks of the grant in the file system at once: allocating them one by one, as they are written,
    /// costs more. What is left of them at the end is given back with all other gaps.
    fn reserve(&self) {
        for Run { start, len } in block_layout::allocatable_runs(self.grant.start, self.grant.len) {
            // An error is ignored: if there is too little space, the write reports it. The file is extended, because
            // blocks beyond its end would not be given back later.
            let _ = fallocate(&self.image.file, FallocateFlags::empty(), start * BLOCK, len * BLOCK);
        }
    }

    /// Gives the rest of the grant back to the file system: on a disk that is almost full, other layers need its room.
    /// What layers leave behind would otherwise add up until the image is finished.
    fn give_back(&self) {
        for Run { start, len } in block_layout::allocatable_runs(self.grant.start, self.grant.len) {
            // An error is ignored: the gaps of the finished image are given back in any case.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.image.file, flags, start * BLOCK, len * BLOCK);
        }
    }

    /// Writes the current piece.
    fn flush(&mut self) -> Result<(), RootfsError> {
        if self.filled == 0 {
            return Ok(());
        }
        // Grants and reserved ranges are whole pieces, so a piece is contiguous in the image.
        let at = block_layout::nth_allocatable(self.at).start * BLOCK;
        let TargetImage { file, when_full, .. } = &*self.image;
        let written = when_full.fit(file, || file.write_all_at(&self.piece[..self.filled], at));
        written.map_err(RootfsError::io("write the image"))?;
        self.piece[self.filled..].fill(0);
        self.hashes.push((at, hash(at, &self.piece)));
        self.filled = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_layer_that_ends_leaves_no_more_reserved_than_its_last_piece() {
        let (file, allocator) = (tempfile::tempfile().unwrap(), TurnAllocator::new([0], 1));
        let image = Arc::new(TargetImage { file, when_full: WhenFull::default(), allocator });
        let taken = || image.file.metadata().unwrap().blocks() * 512;
        let mut writer = image.content_writer(0, &Cancel::default());
        // The second grant has two pieces, and the content ends in the first of them.
        let content = vec![1; PIECE + PIECE / 4];
        writer.begin(content.len() as u64);
        writer.write(&content).unwrap();
        writer.end().unwrap();
        writer.finish().unwrap();
        let pieces = 2 * PIECE as u64;
        assert!((content.len() as u64..=pieces + BLOCK).contains(&taken()), "{}", taken());
    }
}
