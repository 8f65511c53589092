//! From the tree to the bytes of the image.
//!
//! Contents of layers are where they will be; everything else gets the blocks that are left, in the order of the inodes:
//! first what directories, links and attributes need, then contents that wait elsewhere, at last what follows from all
//! that, tables and bitmaps.

use super::{
    batch_writer::BatchWriter,
    block_groups::{BlockGroups, GroupContents, INODE, JOURNAL, JOURNAL_INODE, LOST_FOUND_INODE},
    block_layout::{self, BLOCK, BLOCK_BYTES, Run},
    directory::{Directory, Name},
    entry::{Meta, Node, Timestamp},
    error::RootfsError,
    extents::{Map, Tree as ExtentTree},
    format::{Format, Written},
    inode::{Body, Record},
    inode_only,
    order::{Order, ROOT_INODE},
    space::Space,
    spool::{ContentSource, IMAGE, Segment},
    tree::{Index, Kind, ROOT, Tree},
    tree_hash::TreeHash,
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

/// Blocks of `lost+found`.
const LOST_FOUND: usize = 4;
/// Longest target of a link that is in the inode.
const SHORT_LINK: usize = 59;
/// Progress is told about every this many bytes of content.
const REPORT_EVERY: u64 = 8 << 20;

/// The file the image will be, and what is in it already.
pub(super) struct PartialImage<'a> {
    pub(super) file: &'a File,
    /// How many blocks were dealt to layers.
    pub(super) dealt: u64,
    pub(super) pieces: TreeHash,
}

/// Writes the image, contents copied from `sources` where they are not in it. Where `hash` says so, its digest comes
/// along.
pub(super) fn write(
    tree: Tree,
    format: &Format,
    beginning: PartialImage<'_>,
    sources: &[ContentSource],
    hash: bool,
    job: &Job<'_>,
) -> Result<(Written, Option<[u8; 32]>), RootfsError> {
    let failed = || RootfsError::io("write the image");
    let PartialImage { file, dealt, pieces } = beginning;
    let order = Order::of(&tree);
    let uuid = order.uuid(format);
    let mut space = Space::new(dealt);
    let elsewhere = claim(&tree, &order, &mut space);
    let total = order.files.iter().map(|&index| copied(&tree.inodes[index as usize].kind)).sum();
    let painted: Result<_, RootfsError> = thread::scope(|scope| {
        let mut filler = BatchWriter::new(scope, sources, file, pieces).map_err(failed())?;
        for free in space.gaps() {
            clear(file, free).and_then(|()| filler.cleared(free)).map_err(failed())?;
        }
        let mut painter = ImageWriter {
            tree: &tree,
            order: &order,
            space,
            filler,
            elsewhere,
            inodes: vec![[0; INODE]; order.last_inode()],
            seed: csum::fs_seed(&uuid),
            hash_seed: dirhash::seed_from_uuid(&uuid),
            epoch: format.epoch,
            job,
            done: 0,
            reported: 0,
            total,
        };
        let journal = painter.reserved()?;
        for &index in order.dirs.iter().chain(&order.others) {
            painter.inode(index)?;
        }
        // Of files most need none, and they are most of all.
        let rest = inode_only::write(&tree, &order, &painter.elsewhere, painter.seed, &mut painter.inodes, job.cancel)?;
        for index in rest {
            painter.inode(index)?;
        }
        let ImageWriter { mut space, mut filler, inodes, hash_seed, .. } = painter;
        let frame = BlockGroups::new(&mut space, inodes.len() as u64)?;
        let picture =
            GroupContents { uuid, hash_seed, label: &format.label, epoch: format.epoch, inodes: &inodes, journal };
        frame.write(&picture, &mut space, &mut filler)?;
        Ok((frame.len(), filler.finish().map_err(failed())?))
    });
    let (len, pieces) = painted?;
    file.set_len(len).map_err(failed())?;
    job.progress.advance(total, Some(total));
    let content_bytes = order.files.iter().map(|&index| stored(&tree.inodes[index as usize].kind)).sum();
    let entries = order.entries();
    let digest = thread::scope(|scope| {
        // A hundred thousand names take their time to go.
        scope.spawn(|| drop((tree, order)));
        hash.then(|| pieces.digest(file, len).map_err(RootfsError::io("hash the image"))).transpose()
    })?;
    Ok((Written { size_bytes: len, entries, content_bytes }, digest))
}

/// What a file consists of, as (offset in it, segment) in order.
pub(super) fn segments(kind: &Kind) -> impl Iterator<Item = (u64, Segment)> + '_ {
    let (one, several): (_, &[_]) = match kind {
        Kind::File(segment) => (Some((0, *segment)).filter(|_| segment.len > 0), &[]),
        Kind::Sparse { data, .. } => (None, data),
        _ => (None, &[]),
    };
    one.into_iter().chain(several.iter().copied())
}

/// Bytes of a file that are not zeros in a row.
fn stored(kind: &Kind) -> u64 {
    segments(kind).map(|(_, segment)| segment.len).sum()
}

/// Bytes of it that are to be copied.
fn copied(kind: &Kind) -> u64 {
    segments(kind).filter(|(_, segment)| segment.source != IMAGE).map(|(_, segment)| segment.len).sum()
}

/// The blocks of a placed segment.
pub(super) fn blocks(segment: &Segment) -> impl Iterator<Item = Run> + use<> {
    block_layout::allocatable_runs(segment.offset / BLOCK, segment.len.div_ceil(BLOCK))
}

/// Marks the blocks of all placed contents. The files that come back share theirs with another, as two do when one layer
/// is there twice: they need a copy.
fn claim(tree: &Tree, order: &Order, space: &mut Space) -> HashSet<Index> {
    let mut elsewhere = HashSet::new();
    for &index in &order.files {
        let kind = &tree.inodes[index as usize].kind;
        let placed = || segments(kind).filter(|(_, segment)| segment.source == IMAGE);
        if placed().any(|(_, segment)| blocks(&segment).any(|run| space.is_used(run))) {
            elsewhere.insert(index);
            continue;
        }
        placed().for_each(|(_, segment)| blocks(&segment).for_each(|run| space.mark(run)));
    }
    elsewhere
}

/// Gives blocks back, so that what an upper layer hides neither takes room nor travels with the image.
fn clear(file: &File, run: Run) -> io::Result<()> {
    let (from, len) = (run.start * BLOCK, run.len * BLOCK);
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => zero(file, from, len),
        Err(error) => Err(error.into()),
    }
}

/// The same where the file system cannot take blocks back; what the file does not have is zeros anyway.
fn zero(file: &File, from: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; BLOCK_BYTES];
    let end = file.metadata()?.len().min(from + len);
    (from..end).step_by(BLOCK_BYTES).try_for_each(|at| file.write_all_at(&zeros, at))
}

struct ImageWriter<'a> {
    tree: &'a Tree,
    order: &'a Order,
    space: Space,
    filler: BatchWriter<'a>,
    /// Files whose placed contents belong to another.
    elsewhere: HashSet<Index>,
    inodes: Vec<[u8; INODE]>,
    /// What the checksums of this image begin with.
    seed: u32,
    hash_seed: dirhash::HashSeed,
    epoch: u32,
    job: &'a Job<'a>,
    done: u64,
    reported: u64,
    total: u64,
}

impl ImageWriter<'_> {
    /// The inodes the filesystem keeps for itself; the journal's first block.
    fn reserved(&mut self) -> Result<u64, RootfsError> {
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
        self.put(JOURNAL_INODE, file_type::REG, 1, &own(0o600), JOURNAL * BLOCK, &map)?;

        let seed = csum::inode_seed(self.seed, LOST_FOUND_INODE, 0);
        let lost_found = Directory::lost_found(LOST_FOUND_INODE, ROOT_INODE, LOST_FOUND, seed)?;
        let body = self.blocks(LOST_FOUND_INODE, &lost_found.blocks)?;
        self.put(LOST_FOUND_INODE, file_type::DIR, 2, &own(0o700), lost_found.blocks.len() as u64 * BLOCK, &body)?;
        Ok(first)
    }

    /// Writes what an inode of the tree needs blocks for, and puts it in the table.
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
            Kind::Node(node) => (kind_of(&inode.kind), 0, Body { block: device(*node), ..Body::default() }),
            Kind::File(Segment { len, .. }) | Kind::Sparse { len, .. } => {
                (file_type::REG, *len, self.content(index, number)?)
            }
        };
        self.put(number, kind, links, meta, size, &body)
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
            kind: kind_of(&self.tree.inodes[child.index as usize].kind),
        }));
        let names: Vec<Name<'_>> = names.collect();
        let parent = self.order.parents[index as usize];
        Directory::new(number, parent, &names, &self.hash_seed, csum::inode_seed(self.seed, number, 0))
    }

    /// Maps a file's content, and copies what of it is not in its place.
    fn content(&mut self, index: Index, number: u32) -> Result<Body, RootfsError> {
        let mut map = Map::default();
        let kind = &self.tree.inodes[index as usize].kind;
        for (at, segment) in segments(kind) {
            let mut logical = at / BLOCK;
            if segment.source == IMAGE && !self.elsewhere.contains(&index) {
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
                let copied = self.filler.copy(segment.source, segment.offset + done, run.start * BLOCK, len);
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

    /// Writes these blocks somewhere.
    fn blocks<B: AsRef<[u8]>>(&mut self, number: u32, blocks: &[B]) -> Result<Body, RootfsError> {
        let runs = self.space.take(blocks.len() as u64);
        let places = runs.iter().flat_map(|run| run.start..run.start + run.len);
        for (block, bytes) in places.zip(blocks) {
            self.filler.put(block, bytes.as_ref()).map_err(RootfsError::io("write the image"))?;
        }
        self.mapped(number, &runs)
    }

    fn mapped(&mut self, number: u32, runs: &[Run]) -> Result<Body, RootfsError> {
        let mut map = Map::default();
        let mut logical = 0;
        for run in runs {
            map.push(logical, *run);
            logical += run.len;
        }
        self.body(number, &map)
    }

    fn body(&mut self, number: u32, map: &Map) -> Result<Body, RootfsError> {
        let ExtentTree { root, nodes } = map.tree(csum::inode_seed(self.seed, number, 0), &mut self.space);
        for (block, bytes) in &nodes {
            self.filler.put(*block, bytes).map_err(RootfsError::io("write the image"))?;
        }
        Ok(Body { flags: iflags::EXTENTS, block: root, blocks: map.blocks() + nodes.len() as u64 })
    }

    /// Puts an inode in the table.
    fn put(
        &mut self,
        number: u32,
        kind: u8,
        links: u64,
        meta: &Meta,
        size: u64,
        body: &Body,
    ) -> Result<(), RootfsError> {
        let unfit = |why| RootfsError::entry(b".", why);
        let (attributes, block) = xattr::written(&meta.xattrs).map_err(unfit)?;
        let mut file_acl = 0;
        if let Some(mut bytes) = block {
            file_acl = self.space.one();
            xattr::seal(&mut bytes, file_acl, self.seed);
            self.filler.put(file_acl, &bytes).map_err(RootfsError::io("write the image"))?;
        }
        let record = Record { number, kind, links, meta, size, body, attributes, file_acl };
        record.write(self.seed, &mut self.inodes[number as usize - 1]);
        Ok(())
    }
}

fn kind_of(kind: &Kind) -> u8 {
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

/// A device's numbers: in the first word if they are small, else in the second.
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
            [clear, |file, run| zero(file, run.start * BLOCK, run.len * BLOCK)];
        for zeroed in ways {
            // As long as the blocks, longer, shorter, and ending before them.
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
