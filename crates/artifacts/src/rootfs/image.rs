//! Writes the image of a finished tree.
//!
//! The contents of layers are in their final blocks already. Everything else gets the remaining blocks, in the order of
//! the inodes: first what directories, links and attributes need, then contents that are stored elsewhere, at last what
//! follows from all that, tables and bitmaps.

use super::{
    batch_writer::BatchWriter,
    block_groups::{BlockGroups, GroupContents, INODE, JOURNAL, JOURNAL_INODE, LOST_FOUND_INODE},
    block_layout::{self, BLOCK, BLOCK_BYTES, Run},
    directory::{Directory, Name},
    entry::{Meta, Node, Timestamp},
    error::RootfsError,
    extents::{BlockMap, ExtentTree},
    format::{Format, Written},
    inode::{Body, Record},
    inode_only,
    order::{Order, ROOT_INODE},
    space::Space,
    spool::{ContentSource, IMAGE, Segment},
    tree::{Index, Kind, ROOT, Tree},
    tree_hash::TreeHash,
    when_full::WhenFull,
    xattr,
};
use crate::job::Job;
use mkext4::{
    csum, dirhash,
    spec::{file_type, iflags},
};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use std::{collections::HashSet, fs::File, io, os::unix::fs::FileExt, thread};

/// Size of `lost+found` in blocks.
const LOST_FOUND: usize = 4;
/// Longest target of a symbolic link that is stored in the inode, in bytes.
const SHORT_LINK: usize = 59;
/// Interval between two reports of progress, in bytes of content.
const REPORT_EVERY: u64 = 8 << 20;

/// File of the image, and what is in it already.
pub(super) struct PartialImage<'a> {
    pub(super) file: &'a File,
    pub(super) when_full: WhenFull,
    /// Number of blocks that layers were granted.
    pub(super) allocated: u64,
    pub(super) tree_hash: TreeHash,
}

/// Writes the image and copies from `sources` the contents that are not in it. Returns its digest if `hash` is true.
pub(super) fn write(
    tree: Tree,
    format: &Format,
    partial: PartialImage<'_>,
    sources: &[ContentSource],
    hash: bool,
    job: &Job<'_>,
) -> Result<(Written, Option<[u8; 32]>), RootfsError> {
    let failed = || RootfsError::io("write the image");
    let PartialImage { file, when_full, allocated, tree_hash } = partial;
    let order = Order::of(&tree);
    let uuid = order.uuid(format);
    let mut space = Space::new(allocated);
    let needs_copy = mark_used(&tree, &order, &mut space);
    let total = order.files.iter().map(|&index| copied(&tree.inodes[index as usize].kind)).sum();
    let written: Result<_, RootfsError> = thread::scope(|scope| {
        let mut output = BatchWriter::new(scope, sources, file, &when_full, tree_hash).map_err(failed())?;
        for free in space.gaps() {
            punch_hole(file, free).and_then(|()| output.cleared(free)).map_err(failed())?;
        }
        let mut writer = ImageWriter {
            tree: &tree,
            order: &order,
            space,
            output,
            needs_copy,
            inodes: vec![[0; INODE]; order.last_inode()],
            seed: csum::fs_seed(&uuid),
            hash_seed: dirhash::seed_from_uuid(&uuid),
            epoch: format.epoch,
            job,
            done: 0,
            reported: 0,
            total,
        };
        let journal = writer.reserved_inodes()?;
        for &index in order.dirs.iter().chain(&order.others) {
            writer.inode(index)?;
        }
        // Most inodes are those of files, and most of these need no further blocks.
        let rest = inode_only::write(&tree, &order, &writer.needs_copy, writer.seed, &mut writer.inodes, job.cancel)?;
        for index in rest {
            writer.inode(index)?;
        }
        let ImageWriter { mut space, mut output, inodes, hash_seed, .. } = writer;
        let groups = BlockGroups::new(&mut space, inodes.len() as u64)?;
        let contents =
            GroupContents { uuid, hash_seed, label: &format.label, epoch: format.epoch, inodes: &inodes, journal };
        groups.write(&contents, &mut space, &mut output)?;
        Ok((groups.len(), output.finish().map_err(failed())?))
    });
    let (len, tree_hash) = written?;
    file.set_len(len).map_err(failed())?;
    job.progress.advance(total, Some(total));
    let content_bytes = order.files.iter().map(|&index| stored(&tree.inodes[index as usize].kind)).sum();
    let entries = order.entries();
    let digest = thread::scope(|scope| {
        // Dropping a hundred thousand names takes noticeable time.
        scope.spawn(|| drop((tree, order)));
        hash.then(|| tree_hash.digest(file, len).map_err(RootfsError::io("hash the image"))).transpose()
    })?;
    Ok((Written { size_bytes: len, entries, content_bytes }, digest))
}

/// Returns the stored segments of a file, as (offset in the file, segment) in order.
pub(super) fn segments(kind: &Kind) -> impl Iterator<Item = (u64, Segment)> + '_ {
    let (one, several): (_, &[_]) = match kind {
        Kind::File(segment) => (Some((0, *segment)).filter(|_| segment.len > 0), &[]),
        Kind::Sparse { data, .. } => (None, data),
        _ => (None, &[]),
    };
    one.into_iter().chain(several.iter().copied())
}

/// Returns how many bytes of a file are stored, holes left out.
fn stored(kind: &Kind) -> u64 {
    segments(kind).map(|(_, segment)| segment.len).sum()
}

/// Returns how many bytes of a file have to be copied into the image.
fn copied(kind: &Kind) -> u64 {
    segments(kind).filter(|(_, segment)| segment.source != IMAGE).map(|(_, segment)| segment.len).sum()
}

/// Returns the blocks of a segment that is in the image.
pub(super) fn blocks(segment: &Segment) -> impl Iterator<Item = Run> + use<> {
    block_layout::allocatable_runs(segment.offset / BLOCK, segment.len.div_ceil(BLOCK))
}

/// Marks the blocks of all contents that are in the image. Returns the files that share theirs with another file, as
/// when one layer occurs twice: they need a copy.
fn mark_used(tree: &Tree, order: &Order, space: &mut Space) -> HashSet<Index> {
    let mut needs_copy = HashSet::new();
    for &index in &order.files {
        let kind = &tree.inodes[index as usize].kind;
        let in_place = || segments(kind).filter(|(_, segment)| segment.source == IMAGE);
        if in_place().any(|(_, segment)| blocks(&segment).any(|run| space.is_used(run))) {
            needs_copy.insert(index);
            continue;
        }
        in_place().for_each(|(_, segment)| blocks(&segment).for_each(|run| space.mark(run)));
    }
    needs_copy
}

/// Gives blocks back to the file system, so that content hidden by an upper layer neither takes room nor is distributed
/// with the image.
fn punch_hole(file: &File, run: Run) -> io::Result<()> {
    let (from, len) = (run.start * BLOCK, run.len * BLOCK);
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, from, len),
        Err(error) => Err(error.into()),
    }
}

/// Writes zeros instead, for file systems that cannot punch holes. Beyond the end of the file there are zeros anyway.
fn write_zeros(file: &File, from: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; BLOCK_BYTES];
    let end = file.metadata()?.len().min(from + len);
    (from..end).step_by(BLOCK_BYTES).try_for_each(|at| file.write_all_at(&zeros, at))
}

struct ImageWriter<'a> {
    tree: &'a Tree,
    order: &'a Order,
    space: Space,
    output: BatchWriter<'a>,
    /// Files whose blocks in the image belong to another file.
    needs_copy: HashSet<Index>,
    inodes: Vec<[u8; INODE]>,
    /// Seed of the image's checksums.
    seed: u32,
    hash_seed: dirhash::HashSeed,
    epoch: u32,
    job: &'a Job<'a>,
    done: u64,
    reported: u64,
    total: u64,
}

impl ImageWriter<'_> {
    /// Writes the reserved inodes and returns the first block of the journal.
    fn reserved_inodes(&mut self) -> Result<u64, RootfsError> {
        for number in [1, 3, 4, 5, 6, 7, 9, 10] {
            let raw = &mut self.inodes[number as usize - 1];
            if number == 1 {
                for at in [0x08, 0x0C, 0x10] {
                    raw[at..at + 4].copy_from_slice(&self.epoch.to_le_bytes());
                }
            }
            let [low, high, ..] = csum::inode(self.seed, number, 0, raw).to_le_bytes();
            raw[0x7C..0x7E].copy_from_slice(&[low, high]);
        }
        let mtime = Timestamp::from_secs(self.epoch.into());
        let own = |mode| Meta::root(mode, mtime);

        let journal = self.space.take(JOURNAL);
        let first = journal[0].start;
        let map = self.mapped(JOURNAL_INODE, &journal)?;
        self.put_inode(JOURNAL_INODE, file_type::REG, 1, &own(0o600), JOURNAL * BLOCK, &map)?;

        let seed = csum::inode_seed(self.seed, LOST_FOUND_INODE, 0);
        let lost_found = Directory::lost_found(LOST_FOUND_INODE, ROOT_INODE, LOST_FOUND, seed)?;
        let body = self.blocks(LOST_FOUND_INODE, &lost_found.blocks)?;
        self.put_inode(
            LOST_FOUND_INODE,
            file_type::DIR,
            2,
            &own(0o700),
            lost_found.blocks.len() as u64 * BLOCK,
            &body,
        )?;
        Ok(first)
    }

    /// Writes the blocks of an inode of the tree, and the inode into the table.
    fn inode(&mut self, index: Index) -> Result<(), RootfsError> {
        self.job.cancel.check()?;
        let inode = &self.tree.inodes[index as usize];
        let number = self.order.numbers[index as usize];
        let links = self.order.links[index as usize];
        let mut meta = &inode.meta;
        let implied;
        if let Kind::Dir { implied: true, .. } = inode.kind {
            implied = Meta { mtime: Timestamp::from_secs(self.epoch.into()), ..inode.meta.clone() };
            meta = &implied;
        }
        let (kind, size, body) = match &inode.kind {
            Kind::Dir { .. } => {
                let directory = self.directory(index, number)?;
                let mut body = self.blocks(number, &directory.blocks)?;
                body.flags |= if directory.indexed { iflags::INDEX } else { 0 };
                (file_type::DIR, directory.blocks.len() as u64 * BLOCK, body)
            }
            Kind::Symlink(target) if target.len() <= SHORT_LINK => {
                let mut body = Body::default();
                body.block[..target.len()].copy_from_slice(target);
                (file_type::SYMLINK, target.len() as u64, body)
            }
            Kind::Symlink(target) => {
                (file_type::SYMLINK, target.len() as u64, self.blocks(number, std::slice::from_ref(target))?)
            }
            Kind::Node(node) => (file_type_of(&inode.kind), 0, Body { block: device(*node), ..Body::default() }),
            Kind::File(Segment { len, .. }) | Kind::Sparse { len, .. } => {
                (file_type::REG, *len, self.content(index, number)?)
            }
        };
        self.put_inode(number, kind, links, meta, size, &body)
    }

    fn directory(&self, index: Index, number: u32) -> Result<Directory, RootfsError> {
        let Kind::Dir { children, .. } = &self.tree.inodes[index as usize].kind else {
            return Err(RootfsError::io("write a directory")(io::ErrorKind::InvalidData.into()));
        };
        let lost_found = Name { bytes: b"lost+found", inode: LOST_FOUND_INODE, kind: file_type::DIR };
        let own = (index == ROOT).then_some(lost_found);
        let names = own.into_iter().chain(children.iter().map(|(name, child)| Name {
            bytes: name,
            inode: self.order.numbers[child.index as usize],
            kind: file_type_of(&self.tree.inodes[child.index as usize].kind),
        }));
        let names: Vec<Name<'_>> = names.collect();
        let parent = self.order.parents[index as usize];
        Directory::new(number, parent, &names, &self.hash_seed, csum::inode_seed(self.seed, number, 0))
    }

    /// Maps a file's content, and copies what is not in its final blocks.
    fn content(&mut self, index: Index, number: u32) -> Result<Body, RootfsError> {
        let mut map = BlockMap::default();
        let kind = &self.tree.inodes[index as usize].kind;
        for (at, segment) in segments(kind) {
            let mut logical = at / BLOCK;
            if segment.source == IMAGE && !self.needs_copy.contains(&index) {
                for run in blocks(&segment) {
                    map.push(logical, run);
                    logical += run.len;
                }
                continue;
            }
            let mut done = 0;
            for run in self.space.take(segment.len.div_ceil(BLOCK)) {
                map.push(logical, run);
                logical += run.len;
                let len = (run.len * BLOCK).min(segment.len - done);
                let copied = self.output.copy(segment.source, segment.offset + done, run.start * BLOCK, len);
                copied.map_err(RootfsError::io("write the image"))?;
                done += len;
                self.report(len)?;
            }
        }
        self.body(number, &map)
    }

    fn report(&mut self, bytes: u64) -> Result<(), RootfsError> {
        self.done += bytes;
        if self.done - self.reported >= REPORT_EVERY {
            self.reported = self.done;
            self.job.cancel.check()?;
            self.job.progress.advance(self.done, Some(self.total.max(self.done)));
        }
        Ok(())
    }

    /// Allocates and writes these blocks.
    fn blocks<B: AsRef<[u8]>>(&mut self, number: u32, blocks: &[B]) -> Result<Body, RootfsError> {
        let runs = self.space.take(blocks.len() as u64);
        let places = runs.iter().flat_map(|run| run.start..run.start + run.len);
        for (block, bytes) in places.zip(blocks) {
            self.output.put(block, bytes.as_ref()).map_err(RootfsError::io("write the image"))?;
        }
        self.mapped(number, &runs)
    }

    fn mapped(&mut self, number: u32, runs: &[Run]) -> Result<Body, RootfsError> {
        let mut map = BlockMap::default();
        let mut logical = 0;
        for run in runs {
            map.push(logical, *run);
            logical += run.len;
        }
        self.body(number, &map)
    }

    fn body(&mut self, number: u32, map: &BlockMap) -> Result<Body, RootfsError> {
        let ExtentTree { root, nodes } = map.encode(csum::inode_seed(self.seed, number, 0), &mut self.space);
        for (block, bytes) in &nodes {
            self.output.put(*block, bytes).map_err(RootfsError::io("write the image"))?;
        }
        Ok(Body { flags: iflags::EXTENTS, block: root, blocks: map.blocks() + nodes.len() as u64 })
    }

    /// Encodes an inode into the table, with a block for its attributes if they need one.
    fn put_inode(
        &mut self,
        number: u32,
        kind: u8,
        links: u64,
        meta: &Meta,
        size: u64,
        body: &Body,
    ) -> Result<(), RootfsError> {
        let unfit = |why| RootfsError::entry(b".", why);
        let (attributes, block) = xattr::encode(&meta.xattrs).map_err(unfit)?;
        let mut file_acl = 0;
        if let Some(mut bytes) = block {
            file_acl = self.space.one();
            xattr::seal(&mut bytes, file_acl, self.seed);
            self.output.put(file_acl, &bytes).map_err(RootfsError::io("write the image"))?;
        }
        let record = Record { number, kind, links, meta, size, body, attributes, file_acl };
        record.write(self.seed, &mut self.inodes[number as usize - 1]);
        Ok(())
    }
}

fn file_type_of(kind: &Kind) -> u8 {
    match kind {
        Kind::Dir { .. } => file_type::DIR,
        Kind::File(_) | Kind::Sparse { .. } => file_type::REG,
        Kind::Symlink(_) => file_type::SYMLINK,
        Kind::Node(Node::CharDevice { .. }) => file_type::CHR,
        Kind::Node(Node::BlockDevice { .. }) => file_type::BLK,
        Kind::Node(Node::Fifo) => file_type::FIFO,
        Kind::Node(Node::Socket) => file_type::SOCK,
    }
}

/// Encodes device numbers: in the first word if both are small, else in the second.
fn device(node: Node) -> [u8; 60] {
    let mut block = [0; 60];
    if let Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } = node {
        if major < 256 && minor < 256 {
            block[..4].copy_from_slice(&(major << 8 | minor).to_le_bytes());
        } else {
            block[4..8].copy_from_slice(&(minor & 0xFF | major << 8 | (minor & !0xFF) << 12).to_le_bytes());
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_zeros_with_holes_and_without() {
        let run = Run { start: 1, len: 2 };
        let ways: [fn(&File, Run) -> io::Result<()>; 2] =
            [punch_hole, |file, run| write_zeros(file, run.start * BLOCK, run.len * BLOCK)];
        for zeroed in ways {
            // A file that ends with the blocks, behind them, within them and before them.
            for blocks in [3, 5, 2, 1] {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&vec![7; blocks * BLOCK_BYTES], 0).unwrap();
                zeroed(&file, run).unwrap();
                let mut found = vec![0; blocks * BLOCK_BYTES];
                file.read_exact_at(&mut found, 0).unwrap();
                let expected = |block| if (1..3).contains(&block) { 0 } else { 7 };
                assert!(found.iter().enumerate().all(|(at, byte)| *byte == expected(at / BLOCK_BYTES)), "{blocks}");
                assert_eq!(file.metadata().unwrap().len(), found.len() as u64);
            }
        }
    }
}
