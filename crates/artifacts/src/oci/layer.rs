//! Reads one layer: decompresses and verifies its bytes, reads its headers, writes its contents into the image.
//!
//! Two threads share the work, because either half of it keeps a processor busy: one decompresses, the other reads the
//! archive and writes. Each hashes the bytes it handles, and some of other layers along with them ([`super::hashing`]).
//! The result is a list of the layer's entries; what two entries with the same path mean is decided in
//! [`super::merge`].

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
    rootfs::{ContentLocation, ContentWriter, Meta, Node, RootfsError, WrittenContent},
    tar::{self, EntryKind, Reader},
};
use std::{
    io::{self, BufRead, Read},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
};

/// Upper bound of the window of a zstd decoder, as a power of two of bytes: the most that `zstd --long` asks for.
const MAX_WINDOW_LOG: u32 = 27;
/// Bytes an attribute takes in memory besides its name and value.
const XATTR_OVERHEAD: usize = 64;
/// Number of entries between two checks for cancellation.
const CHECK_EVERY: usize = 256;

/// Source of a layer's bytes.
pub(super) trait LayerInput: BufRead + Send {
    /// Reads the rest and verifies the whole.
    fn verify(&mut self) -> Result<(), LayerError>;

    /// Explains why decompression failed, as far as that is known without waiting for more bytes.
    fn explain_decode_error(&mut self, error: io::Error) -> LayerError;
}

/// Bytes in memory need no verification.
impl LayerInput for &[u8] {
    fn verify(&mut self) -> Result<(), LayerError> {
        Ok(())
    }

    fn explain_decode_error(&mut self, error: io::Error) -> LayerError {
        LayerError::Decode(error)
    }
}

/// Layer that was read.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) written: WrittenContent,
    pub(super) entries: Vec<LayerEntry>,
}

/// Entry of a layer.
#[derive(Debug)]
pub(super) struct LayerEntry {
    pub(super) path: Vec<u8>,
    pub(super) kind: LayerKind,
    pub(super) meta: Meta,
}

impl LayerEntry {
    /// Returns how many bytes its names and attributes take in memory.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let target = match &self.kind {
            LayerKind::Symlink(target) | LayerKind::HardLink(target) => target.len(),
            _ => 0,
        };
        let xattrs = self.meta.xattrs.iter().map(|xattr| XATTR_OVERHEAD + xattr.name.len() + xattr.value.len());
        (self.path.len() + target + xattrs.sum::<usize>()) as u64
    }
}

/// Type of an entry.
#[derive(Debug)]
pub(super) enum LayerKind {
    Dir,
    File(ContentLocation),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Node(Node),
}

/// Running totals of all layers of an image: entries, and bytes of their names and attributes.
///
/// Several layers come at once, and one that does not come keeps those above it in memory. Without common totals each
/// layer would be allowed what all together may take.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: AtomicU64,
    metadata: AtomicU64,
}

impl Tally {
    /// Counts an entry before it is kept, and refuses the one that exceeds a limit.
    pub(super) fn add(&self, entry: &LayerEntry, limits: Limits) -> Result<(), LayerError> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= limits.max_entries {
            return Err(RootfsError::TooManyEntries(limits.max_entries).into());
        }
        let more = entry.metadata_bytes();
        if self.metadata.fetch_add(more, Ordering::Relaxed).saturating_add(more) > limits.max_metadata {
            return Err(RootfsError::TooMuchMetadata(limits.max_metadata).into());
        }
        Ok(())
    }
}

/// Limits and shared state for reading one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerContext<'a> {
    pub(super) limits: Limits,
    /// Bytes all layers decompressed to so far.
    pub(super) used: &'a AtomicU64,
    /// Totals of all layers so far.
    pub(super) tally: &'a Tally,
    /// Size of the layer as it arrives, for the ratio.
    pub(super) compressed_size: Option<u64>,
    /// Digest its decompressed bytes must have.
    pub(super) diff_id: Option<Digest>,
    /// Pool that hashes it.
    pub(super) pool: &'a HashPool,
}

/// Reads a layer, compressed or not, to its end; `writer` writes its contents. A layer that turns out to be bad is read
/// no further.
pub(super) fn read(
    input: &mut impl LayerInput,
    context: LayerContext<'_>,
    writer: ContentWriter,
    job: &Job<'_>,
) -> Result<Layer, LayerError> {
    let limits = context.limits;
    let limit = UnpackLimit {
        max: limits.max_unpacked,
        used: context.used,
        layer: context
            .compressed_size
            .map(|compressed_size| compressed_size.saturating_mul(limits.max_ratio).max(limits.ratio_exempt)),
        ratio: limits.max_ratio,
    };
    let (read, decoded) = thread::scope(|scope| {
        let (full, filled) = sync_channel(QUEUE);
        let (empty, emptied) = channel();
        let decoder = scope.spawn(move || {
            let decoded = decode(input, &full, &emptied);
            // The reader learns that there is no more before the rest of the input is verified.
            drop(full);
            match decoded {
                // The reader has stopped.
                Ok(false) => Ok(()),
                Ok(true) => input.verify(),
                Err(error) => Err(input.explain_decode_error(error)),
            }
        });
        let chunks = ChunkReader::new(filled, empty, limit, context.pool.stream(), job.cancel);
        let read = read_archive(chunks, writer, context, job);
        let decoded = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (read, decoded)
    });
    // If the archive ends early, the decoder's failure, if there is one, is the cause.
    let (entries, written, diff_id) = match (read, decoded) {
        (Err(read), Err(decoded)) if !ends_early(&read) => {
            tracing::debug!(error = &decoded as &dyn std::error::Error, "the rest of the layer");
            return Err(read);
        }
        (_, Err(decoded)) => return Err(decoded),
        (read, Ok(())) => read?,
    };
    match context.diff_id {
        Some(should) if should != diff_id => Err(LayerError::DiffId { is: diff_id, should }),
        _ => Ok(Layer { written, entries }),
    }
}

fn ends_early(error: &LayerError) -> bool {
    matches!(error, LayerError::Rootfs(RootfsError::Archive { .. }))
}

/// Decompresses into the queue. Returns false if the reader stopped before the end.
fn decode(input: &mut impl LayerInput, full: &SyncSender<Vec<u8>>, emptied: &Receiver<Vec<u8>>) -> io::Result<bool> {
    let mut magic = [0; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match input.read(&mut magic[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let all = magic[..filled].chain(&mut *input);
    match Compression::detect(magic) {
        Compression::Gzip => fill_buffers(Gunzip::new(all), full, emptied),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(all)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            fill_buffers(decoder, full, emptied)
        }
        Compression::None => fill_buffers(all, full, emptied),
    }
}

fn fill_buffers(mut decoder: impl Read, full: &SyncSender<Vec<u8>>, emptied: &Receiver<Vec<u8>>) -> io::Result<bool> {
    loop {
        let mut buffer = emptied.try_recv().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => {
                    buffer.truncate(filled);
                    return Ok(filled == 0 || full.send(buffer).is_ok());
                }
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if full.send(buffer).is_err() {
            return Ok(false);
        }
    }
}

/// Reads the entries of the archive. Returns them, what was written, and the digest of the whole.
fn read_archive(
    chunks: ChunkReader<'_>,
    mut writer: ContentWriter,
    context: LayerContext<'_>,
    job: &Job<'_>,
) -> Result<(Vec<LayerEntry>, WrittenContent, Digest), LayerError> {
    let limits = context.limits;
    let caps = tar::Limits { entries: limits.max_entries, bytes: limits.max_unpacked };
    // The digest shows whether the archive was cut.
    let mut reader = Reader::new(chunks, caps).open_ended();
    let mut entries = Vec::new();
    let outcome = read_entries(&mut reader, &mut entries, &mut writer, context, job);
    let mut chunks = reader.into_inner();
    if let Err(error) = outcome {
        return Err(chunks.failure().unwrap_or(error));
    }
    let written = writer.finish()?;
    Ok((entries, written, chunks.finish()?))
}

fn read_entries(
    reader: &mut Reader<ChunkReader<'_>>,
    entries: &mut Vec<LayerEntry>,
    writer: &mut ContentWriter,
    context: LayerContext<'_>,
    job: &Job<'_>,
) -> Result<(), LayerError> {
    while let Some(entry) = reader.next_entry().map_err(RootfsError::from)? {
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
        context.tally.add(&entry, context.limits)?;
        entries.push(entry);
    }
    Ok(())
}
