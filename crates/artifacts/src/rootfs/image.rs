//! From the tree to the bytes of the image: the only place that talks to the filesystem writer.

use super::{
    builder::{Format, Written},
    digest::Digester,
    entry::{Meta, Node},
    error::Error,
    fill::{Filler, Hasher},
    foreign::StandIns,
    geometry::{Demand, JOURNAL},
    spool::{Origin, Segment},
    tree::{Index, Kind, ROOT, Tree},
};
use crate::job::Job;
use mkext4::{FsBuilder, InodeCount, InodeHandle, Layout, Options, RegionSink, SparseSeg, SpecialKind};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::mpsc::{channel, sync_channel},
    thread,
};

/// The root's inode, and that of what is declared first; one more for each that follows.
const ROOT_INODE: u32 = 2;
const FIRST_INODE: u32 = 12;
/// Progress is told about every this many bytes of content.
const REPORT_EVERY: u64 = 8 << 20;
/// Pieces that are written and wait to be hashed.
const QUEUE: usize = 6;

/// A declared filesystem and where the content of each of its files lies.
pub(super) struct Plan {
    builder: FsBuilder,
    contents: Vec<(InodeHandle, Content)>,
    stand_ins: StandIns,
    entries: u64,
}

impl Plan {
    pub(super) fn new(tree: &Tree, format: &Format) -> Result<Self, Error> {
        let order = Order::of(tree);
        let shape = order.demand.shape();
        let mut options = Options::new(shape.size_bytes, order.uuid(format), i64::from(format.epoch));
        options.inodes =
            InodeCount::Exact(u32::try_from(shape.inodes).map_err(|_| Error::TooManyEntries(shape.inodes))?);
        options.label = Some(format.label.clone());
        options.reserved_percent = 0;
        options.journal_blocks = Some(JOURNAL);
        let mut declared = Declared {
            builder: FsBuilder::new(options)?,
            handles: vec![None; tree.inodes.len()],
            contents: Vec::new(),
            numbers: vec![0; tree.inodes.len()],
            next: FIRST_INODE,
            stand_ins: StandIns::default(),
            epoch: format.epoch,
        };
        declared.all(tree, &order)?;
        let Declared { builder, contents, stand_ins, .. } = declared;
        Ok(Self { builder, contents, stand_ins, entries: order.inodes })
    }
}

/// What a file holds, in the order of its bytes.
enum Content {
    One(Segment),
    Several(Vec<Segment>),
}

impl Content {
    fn segments(&self) -> &[Segment] {
        match self {
            Self::One(segment) => std::slice::from_ref(segment),
            Self::Several(segments) => segments,
        }
    }

    fn bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.len).sum()
    }
}

/// One pass over what is reachable: which directories in which order, how much room, and a digest of it all.
struct Order {
    dirs: Vec<Index>,
    demand: Demand,
    inodes: u64,
    digest: Sha256,
}

impl Order {
    fn of(tree: &Tree) -> Self {
        let mut order = Self { dirs: vec![ROOT], demand: Demand::new(), inodes: 1, digest: Sha256::new() };
        // The root's inode is among those the filesystem keeps for itself; its attributes may need a block all the same.
        order.demand.inode(&tree.inodes[ROOT as usize].meta.xattrs);
        order.note(b"", &tree.inodes[ROOT as usize].meta);
        let mut seen = vec![false; tree.inodes.len()];
        let mut next = 0;
        while let Some(&dir) = order.dirs.get(next) {
            next += 1;
            let Kind::Dir { children, .. } = &tree.inodes[dir as usize].kind else { continue };
            let lost_found = (dir == ROOT).then_some("lost+found".len());
            order.demand.directory(children.keys().map(|name| name.len()).chain(lost_found));
            for (name, child) in children {
                let index = child.index;
                let inode = &tree.inodes[index as usize];
                order.note(name, &inode.meta);
                if std::mem::replace(&mut seen[index as usize], true) {
                    continue;
                }
                order.inodes += 1;
                order.demand.inode(&inode.meta.xattrs);
                match &inode.kind {
                    Kind::Dir { .. } => order.dirs.push(index),
                    Kind::File(segment) => {
                        order.digest.update(segment.len.to_le_bytes());
                        order.demand.file(segment.len);
                    }
                    Kind::Sparse { len, data } => {
                        order.digest.update(len.to_le_bytes());
                        order.demand.sparse(data.iter().map(|(_, segment)| segment.len));
                    }
                    Kind::Symlink(target) => {
                        order.digest.update(target);
                        order.demand.symlink(target.len());
                    }
                    Kind::Node(_) => {}
                }
            }
        }
        order
    }

    fn note(&mut self, name: &[u8], meta: &Meta) {
        for number in [name.len() as u64, u64::from(meta.mode), u64::from(meta.uid), u64::from(meta.gid)] {
            self.digest.update(number.to_le_bytes());
        }
        self.digest.update(name);
        self.digest.update(meta.mtime.secs.to_le_bytes());
    }

    /// An identity that follows from names, sizes and attributes; nothing random gets in.
    fn uuid(&self, format: &Format) -> [u8; 16] {
        let mut digest = self.digest.clone();
        digest.update(format.label.as_bytes());
        digest.update(format.epoch.to_le_bytes());
        let digest = digest.finalize();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest[..16]);
        // Version 8 ("custom"), variant 1, as RFC 9562 wants it.
        uuid[6] = (uuid[6] & 0x0F) | 0x80;
        uuid[8] = (uuid[8] & 0x3F) | 0x80;
        uuid
    }
}

/// The declaration as far as it got.
struct Declared {
    builder: FsBuilder,
    handles: Vec<Option<InodeHandle>>,
    contents: Vec<(InodeHandle, Content)>,
    /// By the tree's index, the inode the writer gives it: the numbers follow the order of declaration.
    numbers: Vec<u32>,
    next: u32,
    stand_ins: StandIns,
    epoch: u32,
}

impl Declared {
    fn all(&mut self, tree: &Tree, order: &Order) -> Result<(), Error> {
        self.handles[ROOT as usize] = Some(mkext4::ROOT);
        self.numbers[ROOT as usize] = ROOT_INODE;
        let root = &tree.inodes[ROOT as usize];
        self.builder.set_meta(mkext4::ROOT, self.meta(&root.kind, &root.meta))?;
        self.attributes(mkext4::ROOT, &root.meta)?;
        for &dir in &order.dirs {
            let (Kind::Dir { children, .. }, Some(parent)) =
                (&tree.inodes[dir as usize].kind, self.handles[dir as usize])
            else {
                continue;
            };
            for (name, child) in children {
                let index = child.index;
                let taken = |name: &[u8]| children.contains_key(name);
                let text = self.stand_ins.name(self.numbers[dir as usize], name, taken);
                let text = text.map_err(|why| Error::entry(name, why))?;
                let name = &*text;
                if let Some(known) = self.handles[index as usize] {
                    self.builder.hardlink(parent, name, known)?;
                    continue;
                }
                let inode = &tree.inodes[index as usize];
                self.numbers[index as usize] = self.next;
                self.next += 1;
                let handle = self.inode(parent, name, &inode.kind, self.meta(&inode.kind, &inode.meta))?;
                self.handles[index as usize] = Some(handle);
                self.attributes(handle, &inode.meta)?;
            }
        }
        Ok(())
    }

    fn inode(
        &mut self,
        parent: InodeHandle,
        name: &str,
        kind: &Kind,
        meta: mkext4::Meta,
    ) -> Result<InodeHandle, Error> {
        Ok(match kind {
            Kind::Dir { .. } => self.builder.mkdir(parent, name, meta)?,
            Kind::Symlink(target) => {
                self.builder.symlink(parent, name, &self.stand_ins.target(self.next - 1, target), meta)?
            }
            Kind::Node(node) => self.builder.mknod(parent, name, meta, special(*node))?,
            Kind::File(segment) => {
                let handle = self.builder.file(parent, name, meta, segment.len)?;
                if segment.len > 0 {
                    self.contents.push((handle, Content::One(*segment)));
                }
                handle
            }
            Kind::Sparse { len, data } => {
                let handle = self.builder.file_sparse(parent, name, meta, &with_holes(*len, data))?;
                let segments = data.iter().map(|(_, segment)| *segment).collect();
                self.contents.push((handle, Content::Several(segments)));
                handle
            }
        })
    }

    fn meta(&self, kind: &Kind, meta: &Meta) -> mkext4::Meta {
        let mtime = match kind {
            Kind::Dir { implied: true, .. } => (i64::from(self.epoch), 0),
            _ => (meta.mtime.secs, meta.mtime.nanos),
        };
        mkext4::Meta::new(meta.mode, meta.uid, meta.gid, mtime)
    }

    fn attributes(&mut self, handle: InodeHandle, meta: &Meta) -> Result<(), Error> {
        for attr in &meta.xattrs {
            self.builder.set_xattr(handle, text(&attr.name)?, &attr.value)?;
        }
        Ok(())
    }
}

/// Data and holes in turn, as the writer wants them.
fn with_holes(len: u64, data: &[(u64, Segment)]) -> Vec<SparseSeg> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for (start, segment) in data {
        if *start > at {
            parts.push(SparseSeg::Hole(start - at));
        }
        parts.push(SparseSeg::Data(segment.len));
        at = start + segment.len;
    }
    if at < len {
        parts.push(SparseSeg::Hole(len - at));
    }
    parts
}

fn special(node: Node) -> SpecialKind {
    match node {
        Node::CharDevice { major, minor } => SpecialKind::Char { major, minor },
        Node::BlockDevice { major, minor } => SpecialKind::Block { major, minor },
        Node::Fifo => SpecialKind::Fifo,
        Node::Socket => SpecialKind::Socket,
    }
}

/// Names were checked when they came in; the writer's interface wants to see it again.
fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::entry(bytes, super::Refusal::NotUtf8))
}

/// Lays the plan out and writes it, contents copied from `sources`. Where `hash` says so, the digest of the whole image
/// comes along.
pub(super) fn write(
    plan: Plan,
    sources: &[Origin],
    out: &Path,
    hash: bool,
    job: &Job<'_>,
) -> Result<(Written, Option<[u8; 32]>), Error> {
    let failed = || Error::io("write the image");
    let layout = plan.builder.seal()?;
    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .map_err(Error::io("create the image"))?;
    image.set_len(layout.image_len()).map_err(Error::io("create the image"))?;
    // Making the writer emits all metadata. The contents then bypass it, in its order.
    drop(layout.writer(Sink(&image))?);
    plan.stand_ins.exchange(&image).map_err(failed())?;

    let content_bytes = plan.contents.iter().map(|(_, content)| content.bytes()).sum();
    let digest = if hash {
        let (filled, digester) = thread::scope(|scope| {
            let (written, to_hash) = sync_channel(QUEUE);
            let (give_back, emptied) = channel();
            let digester = Digester::new(&image);
            let digester = scope.spawn(move || digester.follow(&to_hash, &give_back));
            let hasher = Hasher { written, emptied };
            let filled = fill(Filler::new(sources, &image, Some(hasher)), &plan.contents, &layout, content_bytes, job);
            (filled, digester.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        // Whoever writes cannot go on without whoever hashes, who knows why.
        let digester = digester.map_err(Error::io("hash the image"))?;
        filled?;
        Some(digester.finish(layout.image_len()).map_err(Error::io("hash the image"))?)
    } else {
        fill(Filler::new(sources, &image, None), &plan.contents, &layout, content_bytes, job)?;
        None
    };
    job.progress.advance(content_bytes, Some(content_bytes));
    Ok((Written { size_bytes: layout.image_len(), entries: plan.entries, content_bytes }, digest))
}

/// Copies all contents to where their blocks are.
fn fill(
    mut filler: Filler<'_>,
    contents: &[(InodeHandle, Content)],
    layout: &Layout,
    content_bytes: u64,
    job: &Job<'_>,
) -> Result<(), Error> {
    let failed = || Error::io("write the image");
    let (mut done, mut reported) = (0, 0);
    for (handle, content) in contents {
        job.cancel.check()?;
        copy(&mut filler, content, layout.extents(*handle)).map_err(failed())?;
        done += content.bytes();
        if done - reported >= REPORT_EVERY {
            job.progress.advance(done, Some(content_bytes));
            reported = done;
        }
    }
    filler.flush().map_err(failed())
}

/// Copies what a file holds to where its blocks are. Both lists are in the order of its bytes; their pieces differ.
fn copy(filler: &mut Filler<'_>, content: &Content, extents: Vec<(u64, u64)>) -> io::Result<()> {
    let mut places = extents.into_iter();
    let (mut to, mut room) = (0, 0);
    for segment in content.segments() {
        let (mut from, mut left) = (segment.offset, segment.len);
        while left > 0 {
            if room == 0 {
                (to, room) = places.next().ok_or(io::ErrorKind::InvalidData)?;
            }
            let len = left.min(room);
            filler.copy(segment.source, from, to, len)?;
            (from, left, to, room) = (from + len, left - len, to + len, room - len);
        }
    }
    Ok(())
}

/// Metadata goes to its place; zeros are what a fresh file has anyway.
struct Sink<'a>(&'a File);

impl RegionSink for Sink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Layouts only: sealing finds whatever the computed size does not hold, and needs no content.

    use super::*;

    const GROUP: u64 = 128 << 20;

    fn seal(files: impl IntoIterator<Item = u64>) -> Result<u64, mkext4::Error> {
        let mut tree = Tree::new();
        for (n, len) in files.into_iter().enumerate() {
            let (dir, name) = ((n / 1000).to_string(), n.to_string());
            let kind = Kind::File(Segment { source: 0, offset: 0, len });
            tree.put(&[dir.as_bytes(), name.as_bytes()], kind, Meta::default()).unwrap();
        }
        let plan = Plan::new(&tree, &Format { label: String::new(), epoch: 0 }).unwrap();
        Ok(plan.builder.seal()?.image_len())
    }

    #[test]
    fn sizes_around_the_end_of_a_group() {
        // 1, 3 and 16 groups: no copy, a copy, and the first group of a new flex group.
        for groups in [1, 3, 16] {
            for step in 0..60 {
                let len = groups * GROUP - (12 << 20) + step * (256 << 10);
                let size = seal([len]).unwrap_or_else(|error| panic!("{groups} groups, {len} bytes: {error}"));
                assert!(size - len < 12 << 20, "{size} bytes for {len}");
            }
        }
    }

    #[test]
    fn files_of_many_extents() {
        for gigabytes in [1, 8, 64, 200] {
            seal([gigabytes << 30, 1, gigabytes << 30]).unwrap_or_else(|error| panic!("{gigabytes} GiB: {error}"));
        }
    }

    #[test]
    fn as_many_inodes_as_groups_can_hold() {
        // About one block per inode: inode tables as large as they get, and over a whole flex group of them.
        seal(std::iter::repeat_n(4096, 530_000)).unwrap();
        seal(std::iter::repeat_n(0, 100_000)).unwrap();
    }
}
