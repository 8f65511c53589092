//! Builder of an image: entries in, one image out.

use super::{
    allocator::TurnAllocator,
    block_layout::{self, BLOCK, Run},
    content::{ContentLocation, Extents, TargetImage, WrittenContent},
    entry::{Meta, Node, Xattr},
    error::{EntryError, RootfsError},
    format::{Format, Limits, Written},
    image::{self, PartialImage},
    path::components,
    spool::{ContentSource, IMAGE, SPOOL, Segment, Spool},
    tree::{Kind, Tree},
    tree_hash::TreeHash,
    when_full::WhenFull,
    xattr,
};
use crate::{
    job::{Cancel, Job},
    tar::{Entry, EntryKind, Reader},
};
use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempPath;

/// Longest target of a symbolic link, in bytes.
const MAX_LINK_TARGET: usize = 4095;

/// Gathers a tree and writes it as an ext4 image.
///
/// Paths are bytes, relative to the image's root. Unrelated entries may come in any order. Where two name the same path
/// the later wins (a directory named again keeps its children), and missing parents are created: owned by root, mode
/// 0755. The target of a hard link must exist before the link. Contents are read when they are given, with bounded
/// memory. The same tree and [`Format`] give the same bytes, whatever the order the entries came in; with contents of
/// layers ([`Self::begin_image`]) the same layers do.
///
/// Each call either takes an entry whole or says what is wrong with it; after an error the builder can only be dropped.
#[derive(Debug)]
pub struct RootfsBuilder {
    tree: Tree,
    dir: PathBuf,
    spool: Spool,
    /// Files of the caller that hold contents; the first has the number 1.
    files: Vec<ContentSource>,
    in_progress: Option<ImageInProgress>,
    when_full: WhenFull,
    limits: Limits,
    /// Bytes of contents that layers wrote, counted each time they are given a path.
    image_bytes: u64,
    metadata_bytes: u64,
    cancel: Cancel,
}

/// Image that contents are written into before the rest of it is known.
#[derive(Debug)]
struct ImageInProgress {
    path: TempPath,
    image: Arc<TargetImage>,
    tree_hash: TreeHash,
}

impl RootfsBuilder {
    /// Creates a builder that spools contents into an unlinked file on the filesystem of `dir`, best the one the image
    /// will be on. It checks `cancel` between entries and within large ones.
    pub fn new(dir: &Path, limits: Limits, cancel: &Cancel) -> Result<Self, RootfsError> {
        Ok(Self {
            tree: Tree::new(),
            dir: dir.to_owned(),
            spool: Spool::new(dir, limits.content_bytes)?,
            files: Vec::new(),
            in_progress: None,
            when_full: WhenFull::default(),
            limits,
            image_bytes: 0,
            metadata_bytes: 0,
            cancel: cancel.clone(),
        })
    }

    /// Adds a directory; `.` is the root of the image.
    pub fn dir(&mut self, path: &[u8], meta: Meta) -> Result<(), RootfsError> {
        let meta = self.admit(path, 0, meta)?;
        components(path).and_then(|parts| self.tree.dir(&parts, meta)).map_err(|why| RootfsError::entry(path, why))
    }

    /// Adds a regular file of exactly `size` bytes, which are read from `content` now.
    pub fn file(&mut self, path: &[u8], meta: Meta, size: u64, content: &mut dyn Read) -> Result<(), RootfsError> {
        let meta = self.admit(path, 0, meta)?;
        let segment = self.spool.take(path, size, content, &self.cancel)?;
        self.insert(path, Kind::File(segment), meta)
    }

    /// Sets what makes room for the image when the disk is full. To be called before [`Self::begin_image`].
    pub fn when_full(&mut self, when_full: WhenFull) {
        self.when_full = when_full;
    }

    /// Creates the image file, on the filesystem the image will be on, for these layers, which are read in this order
    /// and `parallel` at once: their contents are written to their final blocks. To be called once, before any
    /// [`Self::file_in_image`].
    pub fn begin_image(
        &mut self,
        layers: impl IntoIterator<Item = usize>,
        parallel: usize,
    ) -> Result<Arc<TargetImage>, RootfsError> {
        let file = tempfile::NamedTempFile::new_in(&self.dir).map_err(RootfsError::io("create the image"))?;
        let (file, path) = file.into_parts();
        let image = Arc::new(TargetImage {
            file,
            when_full: self.when_full.clone(),
            allocator: TurnAllocator::new(layers, parallel),
        });
        self.in_progress = Some(ImageInProgress { path, image: Arc::clone(&image), tree_hash: TreeHash::default() });
        Ok(image)
    }

    /// Takes over what a layer wrote into the image.
    pub fn add_written(&mut self, layer: WrittenContent) {
        if let Some(in_progress) = &mut self.in_progress {
            layer.hashes.into_iter().for_each(|(at, hash)| in_progress.tree_hash.hashed(at, hash));
        }
    }

    /// Adds a regular file whose content a layer has written into the image.
    pub fn file_in_image(&mut self, path: &[u8], meta: Meta, content: &ContentLocation) -> Result<(), RootfsError> {
        let meta = self.admit(path, 0, meta)?;
        // Content that is given a second path is copied for it.
        self.image_bytes = self.image_bytes.saturating_add(content.bytes());
        if self.image_bytes > self.limits.content_bytes {
            return Err(RootfsError::TooManyBytes(self.limits.content_bytes));
        }
        let kind = match &content.0 {
            Extents::One(segment) => Kind::File(*segment),
            Extents::Several { len, data } => Kind::Sparse { len: *len, data: data.clone() },
        };
        self.insert(path, kind, meta)
    }

    /// Adds a regular file whose content is the first `size` bytes of the file at `origin`. That file is opened when
    /// the image is written, and must not change until then.
    pub fn file_at(&mut self, path: &[u8], meta: Meta, size: u64, origin: &Path) -> Result<(), RootfsError> {
        let meta = self.admit(path, origin.as_os_str().len(), meta)?;
        self.files.push(ContentSource::At(origin.to_owned()));
        let source = u32::try_from(self.files.len()).expect("fewer than the entries, which are counted");
        self.insert(path, Kind::File(Segment { source, offset: 0, len: size }), meta)
    }

    /// Begins a layer above all entries so far: its whiteouts remove entries of lower layers, and paths lead through
    /// the image's own symbolic links.
    pub fn next_layer(&mut self) {
        self.tree.next_layer();
    }

    /// Removes what lower layers have at `path`, if there is anything.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), RootfsError> {
        self.cancel.check()?;
        components(path).and_then(|parts| self.tree.whiteout(&parts)).map_err(|why| RootfsError::entry(path, why))
    }

    /// Removes what lower layers have in the directory at `path`, if there is one.
    pub fn opaque(&mut self, path: &[u8]) -> Result<(), RootfsError> {
        self.cancel.check()?;
        components(path).and_then(|parts| self.tree.opaque(&parts)).map_err(|why| RootfsError::entry(path, why))
    }

    /// Adds a symbolic link. Only the length of the target is checked, and that it has no zero byte; the mode is that
    /// of all links.
    pub fn symlink(&mut self, path: &[u8], target: &[u8], meta: Meta) -> Result<(), RootfsError> {
        let mut meta = self.admit(path, target.len(), meta)?;
        meta.mode = 0o777;
        if !(1..=MAX_LINK_TARGET).contains(&target.len()) {
            return Err(RootfsError::entry(path, EntryError::LinkTarget(target.len())));
        }
        if target.contains(&0) {
            return Err(RootfsError::entry(path, EntryError::Nul));
        }
        self.insert(path, Kind::Symlink(target.into()), meta)
    }

    /// Adds another name for what is at `target`, which may be anything but a directory. Owner, mode and time stay
    /// those of the target.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), RootfsError> {
        self.admit(path, target.len(), Meta::default())?;
        components(path)
            .and_then(|parts| self.tree.hard_link(&parts, &components(target)?))
            .map_err(|why| RootfsError::entry(path, why))
    }

    /// Adds a device, fifo or socket.
    pub fn node(&mut self, path: &[u8], node: Node, meta: Meta) -> Result<(), RootfsError> {
        let meta = self.admit(path, 0, meta)?;
        if let Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } = node
            && (major > 0xFFF || minor > 0xF_FFFF)
        {
            return Err(RootfsError::entry(path, EntryError::DeviceNumber(major, minor)));
        }
        self.insert(path, Kind::Node(node), meta)
    }

    /// Adds everything in an archive, which is read to its end marker. `keep` sees each entry first: it may change
    /// path, kind and metadata, and an entry for which it returns `false` is left out.
    pub fn archive(
        &mut self,
        input: &mut dyn Read,
        mut keep: impl FnMut(&mut Entry) -> bool,
    ) -> Result<(), RootfsError> {
        let mut archive = Reader::new(input, self.limits.of_archive());
        while let Some(mut entry) = archive.next_entry()? {
            self.cancel.check()?;
            if !keep(&mut entry) {
                continue;
            }
            let Entry { path, kind, meta, size } = entry;
            match kind {
                EntryKind::Dir => self.dir(&path, meta)?,
                EntryKind::File => self.file(&path, meta, size, &mut archive)?,
                EntryKind::Symlink(target) => self.symlink(&path, &target, meta)?,
                EntryKind::HardLink(target) => self.hard_link(&path, &target)?,
                EntryKind::Node(node) => self.node(&path, node, meta)?,
            }
        }
        Ok(())
    }

    /// Returns the first `limit` bytes of the file at `path`, with links followed inside the tree; `None` if there is
    /// no file.
    pub fn read(&mut self, path: &[u8], limit: usize) -> Result<Option<Vec<u8>>, RootfsError> {
        let (segment, holes) = match self.tree.resolve(path).map(|index| &self.tree.inodes[index as usize].kind) {
            Some(Kind::File(segment)) => (*segment, false),
            Some(Kind::Sparse { len, .. }) => (Segment { source: SPOOL, offset: 0, len: *len }, true),
            _ => return Ok(None),
        };
        let mut bytes = vec![0; usize::try_from(segment.len).map_or(limit, |len| len.min(limit))];
        // No caller needs the content of a file with holes, only that it exists: its bytes read as zeros.
        if !holes {
            let read = match segment.source {
                SPOOL => self.spool.flushed()?.read_exact_at(&mut bytes, segment.offset),
                IMAGE => self.read_from_image(&mut bytes, segment.offset),
                other => self.files[other as usize - 1]
                    .open()
                    .and_then(|file| file.read_exact_at(&mut bytes, segment.offset)),
            };
            read.map_err(RootfsError::io("read the content of an entry"))?;
        }
        Ok(Some(bytes))
    }

    /// Whether `path`, with links followed inside the tree, is an executable file.
    pub fn is_executable(&self, path: &[u8]) -> bool {
        self.tree.resolve(path).map(|index| &self.tree.inodes[index as usize]).is_some_and(|inode| {
            matches!(inode.kind, Kind::File(_) | Kind::Sparse { .. }) && inode.meta.mode & 0o111 != 0
        })
    }

    /// Writes the image to `out`, which must not exist. It is complete, but not synced, when this returns; after an
    /// error the caller has to remove it.
    pub fn finish(self, out: &Path, format: &Format, job: &Job<'_>) -> Result<Written, RootfsError> {
        Ok(self.write(out, format, false, job)?.0)
    }

    /// Like [`Self::finish`], and returns the BLAKE3 of the image, most of which is computed while it is written.
    pub fn finish_hashed(self, out: &Path, format: &Format, job: &Job<'_>) -> Result<(Written, [u8; 32]), RootfsError> {
        let (written, digest) = self.write(out, format, true, job)?;
        Ok((written, digest.expect("it was asked for")))
    }

    fn write(
        self,
        out: &Path,
        format: &Format,
        hash: bool,
        job: &Job<'_>,
    ) -> Result<(Written, Option<[u8; 32]>), RootfsError> {
        let mut sources = vec![ContentSource::Open(self.spool.into_file()?)];
        sources.extend(self.files);
        let Some(ImageInProgress { path, image, tree_hash }) = self.in_progress else {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(out);
            let file = file.map_err(RootfsError::io("create the image"))?;
            let partial =
                PartialImage { file: &file, when_full: self.when_full, allocated: 0, tree_hash: TreeHash::default() };
            return image::write(self.tree, format, partial, &sources, hash, job);
        };
        let partial = PartialImage {
            file: &image.file,
            when_full: self.when_full,
            allocated: image.allocator.allocated(),
            tree_hash,
        };
        let written = image::write(self.tree, format, partial, &sources, hash, job)?;
        path.persist_noclobber(out).map_err(|error| RootfsError::io("create the image")(error.error))?;
        Ok(written)
    }

    /// Reads content that a layer has written, from byte `offset` of the allocatable blocks on.
    fn read_from_image(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let file = &self.in_progress.as_ref().ok_or(io::ErrorKind::NotFound)?.image.file;
        let mut rest = bytes;
        for Run { start, len } in block_layout::allocatable_runs(offset / BLOCK, (rest.len() as u64).div_ceil(BLOCK)) {
            let here = usize::try_from(len * BLOCK).map_or(rest.len(), |len| len.min(rest.len()));
            let (now, later) = rest.split_at_mut(here);
            file.read_exact_at(now, start * BLOCK)?;
            rest = later;
        }
        Ok(())
    }

    fn insert(&mut self, path: &[u8], kind: Kind, meta: Meta) -> Result<(), RootfsError> {
        components(path)
            .and_then(|parts| self.tree.put(&parts, kind, meta))
            .map_err(|why| RootfsError::entry(path, why))
    }

    /// Counts an entry against the limits and converts its metadata to the form the image holds.
    fn admit(&mut self, path: &[u8], target: usize, mut meta: Meta) -> Result<Meta, RootfsError> {
        self.cancel.check()?;
        let xattrs: usize = meta.xattrs.iter().map(|Xattr { name, value }| name.len() + value.len()).sum();
        self.metadata_bytes += (path.len() + target + xattrs) as u64;
        if self.metadata_bytes > self.limits.metadata_bytes {
            return Err(RootfsError::TooMuchMetadata(self.limits.metadata_bytes));
        }
        if self.tree.names() >= self.limits.entries {
            return Err(RootfsError::TooManyEntries(self.limits.entries));
        }
        meta.mode &= 0o7777;
        meta.mtime = meta.mtime.clamped();
        meta.xattrs = xattr::check(meta.xattrs).map_err(|why| RootfsError::entry(path, why))?;
        Ok(meta)
    }
}
