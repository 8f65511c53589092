//! One layer: its bytes decompressed and checked, its headers read, its contents put into the image.
//!
//! Two threads share the work, because either half of it keeps a processor busy: one decompresses, the other walks and
//! writes; each hashes what went through it, and some of other layers along ([`super::hashing`]). What comes out is a list
//! of what is in it; where two entries name the same path is for [`super::merge`] to know.

use super::{
    Digest, Limits,
    chunks::{CHUNK, ChunkReader, QUEUE, UnpackLimit},
    compression::Compression,
    error::LayerError,
    gunzip::Gunzip,
    hashing::HashPool,
};
use crate::{
    job::Job,
    rootfs::{
        self, ContentLocation, ContentWriter, Meta, Node, RootfsError, WrittenContent,
        tar::{EntryKind, Reader},
    },
};
use std::{
    io::{self, BufRead, Read},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
};

/// Most memory a zstd decoder may take for its window: what `zstd --long` asks for at most.
const MAX_WINDOW_LOG: u32 = 27;
/// Bytes an attribute takes besides its name and value.
const XATTR_WEIGHT: usize = 64;
/// The job is looked at every this many entries.
const CHECK_EVERY: usize = 256;

/// What a layer's bytes come from.
pub(super) trait Packed: BufRead + Send {
    /// Reads what is left and says what is wrong with the whole, if anything is.
    fn verdict(&mut self) -> Result<(), LayerError>;

    /// Says why they could not be decompressed, as far as that can be known without waiting for more of them.
    fn undecodable(&mut self, error: io::Error) -> LayerError;
}

/// Bytes in memory, which are what they are.
impl Packed for &[u8] {
    fn verdict(&mut self) -> Result<(), LayerError> {
        Ok(())
    }

    fn undecodable(&mut self, error: io::Error) -> LayerError {
        LayerError::Decode(error)
    }
}

/// A layer that was read.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) placed: WrittenContent,
    pub(super) entries: Vec<LayerEntry>,
}

/// One entry of it.
#[derive(Debug)]
pub(super) struct LayerEntry {
    pub(super) path: Vec<u8>,
    pub(super) kind: LayerKind,
    pub(super) meta: Meta,
}

impl LayerEntry {
    /// Bytes its names and attributes take in memory.
    pub(super) fn weight(&self) -> u64 {
        let target = match &self.kind {
            LayerKind::Symlink(target) | LayerKind::HardLink(target) => target.len(),
            _ => 0,
        };
        let xattrs = self.meta.xattrs.iter().map(|xattr| XATTR_WEIGHT + xattr.name.len() + xattr.value.len());
        (self.path.len() + target + xattrs.sum::<usize>()) as u64
    }
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum LayerKind {
    Dir,
    File(ContentLocation),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Node(Node),
}

/// Entries of all layers of an image, and the bytes of their names and attributes.
///
/// Several layers come at once, and one that does not come keeps those above it in memory: without a common count, each
/// would be allowed what all may take.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: AtomicU64,
    metadata: AtomicU64,
}

impl Tally {
    /// Counts an entry before it is kept, and refuses the one that is too much.
    pub(super) fn add(&self, entry: &LayerEntry, limits: Limits) -> Result<(), LayerError> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= limits.max_entries {
            return Err(RootfsError::TooManyEntries(limits.max_entries).into());
        }
        let more = entry.weight();
        if self.metadata.fetch_add(more, Ordering::Relaxed).saturating_add(more) > limits.max_metadata {
            return Err(RootfsError::TooMuchMetadata(limits.max_metadata).into());
        }
        Ok(())
    }
}

/// What one layer is measured by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure<'a> {
    pub(super) limits: Limits,
    /// Bytes all layers unpacked to so far.
    pub(super) used: &'a AtomicU64,
    /// What is in all layers so far.
    pub(super) tally: &'a Tally,
    /// Its size as it comes.
    pub(super) packed: Option<u64>,
    /// What it has to be in the end.
    pub(super) diff_id: Option<Digest>,
    /// Where it is hashed.
    pub(super) hash_pool: &'a HashPool,
}

/// Reads a layer, compressed or not, to its end; `writer` writes its contents. One that turns out to be bad is read no further.
pub(super) fn read(
    input: &mut impl Packed,
    measure: Measure<'_>,
    writer: ContentWriter,
    job: &Job<'_>,
) -> Result<Layer, LayerError> {
    let limits = measure.limits;
    let limit = UnpackLimit {
        most: limits.max_unpacked,
        used: measure.used,
        layer: measure.packed.map(|packed| packed.saturating_mul(limits.max_ratio).max(limits.ratio_exempt)),
        ratio: limits.max_ratio,
    };
    let (walked, decoded) = thread::scope(|scope| {
        let (full, filled) = sync_channel(QUEUE);
        let (empty, emptied) = channel();
        let decoder = scope.spawn(move || {
            let decoded = decode(input, &full, &emptied);
            // Those who wait for more learn that there is none before the rest of the input is looked at.
            drop(full);
            match decoded {
                // Nobody wants more.
                Ok(false) => Ok(()),
                Ok(true) => input.verdict(),
                Err(error) => Err(input.undecodable(error)),
            }
        });
        let chunks = ChunkReader::new(filled, empty, limit, measure.hash_pool.buffered_stream(), job.cancel);
        let walked = walk(chunks, writer, measure, job);
        let decoded = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (walked, decoded)
    });
    // An archive that was cut short is the decoder's failure, where there is one.
    let (entries, placed, diff_id) = match (walked, decoded) {
        (Err(walked), Err(decoded)) if !ends_early(&walked) => {
            tracing::debug!(error = &decoded as &dyn std::error::Error, "the rest of the layer");
            return Err(walked);
        }
        (_, Err(decoded)) => return Err(decoded),
        (walked, Ok(())) => walked?,
    };
    match measure.diff_id {
        Some(should) if should != diff_id => Err(LayerError::DiffId { is: diff_id, should }),
        _ => Ok(Layer { placed, entries }),
    }
}

fn ends_early(error: &LayerError) -> bool {
    matches!(error, LayerError::Rootfs(RootfsError::Archive { .. }))
}

/// Decompresses into the queue; whether to the end.
fn decode(input: &mut impl Packed, full: &SyncSender<Vec<u8>>, emptied: &Receiver<Vec<u8>>) -> io::Result<bool> {
    let mut magic = [0; 4];
    let mut have = 0;
    while have < magic.len() {
        match input.read(&mut magic[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let all = magic[..have].chain(&mut *input);
    match Compression::detect(magic) {
        Compression::Gzip => pump(Gunzip::new(all), full, emptied),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(all)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            pump(decoder, full, emptied)
        }
        Compression::None => pump(all, full, emptied),
    }
}

fn pump(mut decoder: impl Read, full: &SyncSender<Vec<u8>>, emptied: &Receiver<Vec<u8>>) -> io::Result<bool> {
    loop {
        let mut buffer = emptied.try_recv().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let mut have = 0;
        while have < CHUNK {
            match decoder.read(&mut buffer[have..]) {
                Ok(0) => {
                    buffer.truncate(have);
                    return Ok(have == 0 || full.send(buffer).is_ok());
                }
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if full.send(buffer).is_err() {
            return Ok(false);
        }
    }
}

/// Reads the headers and what is behind them, and the digest of the whole.
fn walk(
    chunks: ChunkReader<'_>,
    mut writer: ContentWriter,
    measure: Measure<'_>,
    job: &Job<'_>,
) -> Result<(Vec<LayerEntry>, WrittenContent, Digest), LayerError> {
    let limits = measure.limits;
    let caps = rootfs::Limits {
        entries: limits.max_entries,
        content_bytes: limits.max_unpacked,
        metadata_bytes: limits.max_metadata,
    };
    // The digest says whether it was cut.
    let mut reader = Reader::new(chunks, caps).open_ended();
    let mut entries = Vec::new();
    let outcome = list(&mut reader, &mut entries, &mut writer, measure, job);
    let mut chunks = reader.into_inner();
    if let Err(error) = outcome {
        return Err(chunks.failure().unwrap_or(error));
    }
    let placed = writer.finish()?;
    Ok((entries, placed, chunks.finish()?))
}

fn list(
    reader: &mut Reader<ChunkReader<'_>>,
    entries: &mut Vec<LayerEntry>,
    writer: &mut ContentWriter,
    measure: Measure<'_>,
    job: &Job<'_>,
) -> Result<(), LayerError> {
    while let Some(entry) = reader.next_entry()? {
        if entries.len().is_multiple_of(CHECK_EVERY) {
            job.cancel.check()?;
        }
        let kind = match entry.kind {
            EntryKind::Dir => LayerKind::Dir,
            EntryKind::Symlink(target) => LayerKind::Symlink(target),
            EntryKind::HardLink(target) => LayerKind::HardLink(target),
            EntryKind::Node(node) => LayerKind::Node(node),
            EntryKind::File => {
                writer.begin(entry.size);
                reader.pass(|piece| writer.write(piece))?;
                LayerKind::File(writer.end()?)
            }
        };
        let entry = LayerEntry { path: entry.path, kind, meta: entry.meta };
        measure.tally.add(&entry, measure.limits)?;
        entries.push(entry);
    }
    Ok(())
}
