//! Download of layers: several at once, each applied on top of those below when its turn comes.

use super::{LayerSource, ManifestSource, OpenedImage, PendingLayer};
use crate::{
    job::{Cancel, Job, Part, PartState, Progress},
    oci::{
        Digest, OciError,
        blob::{Blob, BlobSource, Download, file_part},
        cache::LayerCopies,
        error::LayerError,
        hashing::HashPool,
        layer::{self, Layer, LayerContext},
        merge,
    },
    rootfs::{ContentWriter, RootfsBuilder, RootfsError, TargetImage, WhenFull},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU64,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

/// Number of layers that are read at once.
const PARALLEL: usize = 3;
/// Interval at which a waiting pull checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(25);

/// State shared by the layers that are read at once.
#[derive(Debug)]
struct SharedState {
    /// Bytes they decompressed to so far.
    used: AtomicU64,
    /// Pool that hashes them.
    pool: HashPool,
    /// By content, the first layer with it.
    first: HashMap<Digest, usize>,
    /// Image they are written into.
    image: Arc<TargetImage>,
    /// LayerCopies for the cache.
    copies: Arc<LayerCopies>,
    /// Layers that were downloaded by this pull and kept in the cache.
    kept: Mutex<Vec<usize>>,
}

impl SharedState {
    /// Returns the writer of a layer's contents; those of a layer whose content another layer writes are discarded.
    fn writer_for(&self, number: usize, pending: &PendingLayer, cancel: &Cancel) -> Result<ContentWriter, LayerError> {
        if self.first[&pending.diff_id] == number {
            return Ok(self.image.content_writer(number, cancel));
        }
        Ok(TargetImage::discard(number)?.content_writer(number, cancel))
    }
}

impl PendingLayer {
    /// Everything that describes the layer: layers with the same key are the same bytes.
    fn key(&self) -> (Option<Digest>, u64, Digest, &LayerSource) {
        (self.digest, self.size, self.diff_id, &self.source)
    }
}

impl OpenedImage<'_> {
    /// Reads all layers, several at once, and applies them in order.
    pub(super) fn layers(
        &self,
        pending: &[PendingLayer],
        builder: &mut RootfsBuilder,
        job: &Job<'_>,
    ) -> Result<(), OciError> {
        job.progress.phase(&format!("getting {} of {}", plural(pending.len()), self.what));
        // The same bytes are read once, however often they occur. Other bytes with the same decompressed content are
        // read too, last, but only to verify them: an image does not depend on how its layers are compressed.
        let (mut first, mut seen) = (HashMap::new(), HashSet::new());
        let (distinct, repeated): (Vec<usize>, Vec<usize>) = (0..pending.len())
            .filter(|&n| seen.insert(pending[n].key()))
            .partition(|&n| *first.entry(pending[n].diff_id).or_insert(n) == n);
        let queue: VecDeque<usize> = distinct.iter().chain(&repeated).copied().collect();
        for &n in &queue {
            report(job, &pending[n], PartState::Waiting, 0);
        }
        // Otherwise a concurrent pruning would remove the layers that are not read yet, and they would be downloaded
        // again.
        let _held = self.hold_cached(pending);
        let workers = queue.len().min(PARALLEL);
        let copies = LayerCopies::new(self.registries.cache.clone());
        let room = Arc::clone(&copies);
        builder.when_full(WhenFull::new(move |image| room.give_up_for(image)));
        let image = builder.begin_image(distinct.iter().copied(), distinct.len().min(PARALLEL))?;
        let (used, pool, kept) = (AtomicU64::default(), HashPool::default(), Mutex::default());
        let shared = SharedState { used, pool, first, image, copies, kept };
        let queue = Mutex::new(queue);
        let stop = Cancel::default();
        let mut refused = None;
        let outcome = thread::scope(|scope| {
            let (ready, results) = channel();
            for _ in 0..workers {
                let (ready, queue, shared) = (ready.clone(), &queue, &shared);
                let job = Job { progress: job.progress, cancel: &stop };
                scope.spawn(move || self.worker(pending, queue, shared, &job, &ready));
            }
            drop(ready);
            let first = &shared.first;
            let mut stack = LayerStack { pending, first, waiting: HashMap::new(), entries: HashMap::new(), next: 0 };
            let outcome = loop {
                if let Err(cancelled) = job.cancel.check() {
                    break Err(cancelled.into());
                }
                match results.recv_timeout(POLL) {
                    Ok((number, layer)) => {
                        let stacked = layer.map_err(|source| (number, source)).and_then(|layer| {
                            stack.take(number, layer);
                            // Dropping the names takes noticeable time, which the next layer need not wait for.
                            let stacked = stack.advance(builder, |finished| drop(scope.spawn(|| drop(finished))));
                            stacked.inspect_err(|(number, _)| refused = Some(*number))
                        });
                        if let Err((number, source)) = stacked {
                            let name = pending[number].name.clone();
                            break Err(OciError::layer(name, source));
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break Ok(()),
                }
            };
            // The other layers are not needed for an image that will not exist.
            stop.cancel();
            outcome
        });
        // All workers have ended: the cache gets no more layers of this pull.
        if let (Some(number), Err(OciError::Layer { source, .. })) = (refused, &outcome) {
            self.forget_refused(number, source, pending, &shared);
        }
        // Layers that were not read to their end may be damaged too.
        if outcome.as_ref().is_err_and(OciError::is_stale) {
            job.progress.phase("looking for layers that are damaged in the cache");
            self.forget_damaged(pending, job.cancel);
        }
        outcome
    }

    fn worker(
        &self,
        pending: &[PendingLayer],
        queue: &Mutex<VecDeque<usize>>,
        shared: &SharedState,
        job: &Job<'_>,
        ready: &Sender<(usize, Result<Layer, LayerError>)>,
    ) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(number) = next else { return };
            if job.cancel.is_cancelled() {
                return;
            }
            let writer = shared.writer_for(number, &pending[number], job.cancel);
            let layer = writer.and_then(|writer| self.layer((number, &pending[number]), shared, writer, job));
            if ready.send((number, layer)).is_err() {
                return;
            }
        }
    }

    fn layer(
        &self,
        (number, pending): (usize, &PendingLayer),
        shared: &SharedState,
        writer: ContentWriter,
        job: &Job<'_>,
    ) -> Result<Layer, LayerError> {
        let SharedState { used, pool, .. } = shared;
        let limits = self.registries.limits;
        if pending.size > limits.max_unpacked {
            return Err(LayerError::TooLarge(limits.max_unpacked));
        }
        let notices = NoticesOnly(job.progress);
        let source = self.source(pending, &shared.copies, Job { progress: &notices, cancel: job.cancel })?;
        let kept = match (&source, pending.digest) {
            (BlobSource::Cached(file, _), Some(digest)) => file.try_clone().ok().map(|file| (digest, file)),
            _ => None,
        };
        let state = source.state();
        report(job, pending, state, 0);
        let reporter = *job;
        let report_bytes = move |bytes| report(&reporter, pending, state, bytes);
        let mut blob = Blob::new(source, (pending.digest, pending.size), pool, job.cancel, report_bytes);
        let (compressed_size, diff_id) = (Some(pending.size), Some(pending.diff_id));
        let context = LayerContext { limits, used, tally: &self.tally, compressed_size, diff_id, pool };
        let layer = layer::read(&mut blob, context, writer, job).map_err(|error| match kept {
            // The failure may be due to a damaged copy in the cache. Part of the image is written by now, so the whole
            // pull has to start over.
            Some((digest, file)) if self.is_stale(&error, &digest, &file, job.cancel) => LayerError::Stale,
            _ => error,
        })?;
        if blob.keep_in_cache() {
            shared.kept.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        }
        report(job, pending, PartState::Done, pending.size);
        Ok(layer)
    }

    /// Whether a layer failed because its copy in the cache is damaged.
    fn is_stale(&self, error: &LayerError, digest: &Digest, file: &File, cancel: &Cancel) -> bool {
        matches!(error, LayerError::Digest { .. }) || self.registries.cache.is_damaged(digest, file, cancel)
    }

    /// Removes from the cache a layer that arrived intact and was refused, in all its compressed forms: the cache keeps
    /// no refused layers. LayerCopies that were there before may be good for other images and stay.
    fn forget_refused(&self, refused: usize, why: &LayerError, all: &[PendingLayer], shared: &SharedState) {
        use RootfsError::{Cancelled, Io};
        // These errors say nothing about the layer.
        if matches!(why, LayerError::Cancelled(_) | LayerError::Rootfs(Cancelled(_) | Io { .. })) {
            return;
        }
        let cache = &self.registries.cache;
        for &number in &*shared.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            let layer = &all[number];
            if layer.diff_id == all[refused].diff_id
                && let Some(digest) = layer.digest
                && let Some(file) = cache.get(&digest, layer.size)
            {
                cache.forget(&digest, &file);
            }
        }
    }

    /// Removes all damaged layers from the cache, so that the next attempt finds none.
    fn forget_damaged(&self, pending: &[PendingLayer], cancel: &Cancel) {
        let cache = &self.registries.cache;
        for layer in pending {
            if let Some(digest) = layer.digest
                && let Some(file) = cache.get(&digest, layer.size)
            {
                cache.is_damaged(&digest, &file, cancel);
            }
        }
    }

    /// Opens all layers that are in the cache already, so that they stay there.
    fn hold_cached(&self, pending: &[PendingLayer]) -> Vec<File> {
        if !matches!(self.from, ManifestSource::Registry(..)) {
            return Vec::new();
        }
        let cache = &self.registries.cache;
        pending.iter().filter_map(|layer| cache.get(&layer.digest?, layer.size)).collect()
    }

    /// Returns the source of a layer's bytes.
    fn source<'b>(
        &'b self,
        pending: &PendingLayer,
        copies: &Arc<LayerCopies>,
        job: Job<'b>,
    ) -> Result<BlobSource<'b>, LayerError> {
        let cache = &self.registries.cache;
        match (&self.from, &pending.source, pending.digest) {
            (ManifestSource::Registry(repository, _), LayerSource::Registry, Some(digest)) => {
                if let Some(file) = cache.get(&digest, pending.size) {
                    return Ok(BlobSource::Cached(file, cache));
                }
                let copy = copies.begin().map_err(|error| as_layer_error(error.into()))?;
                let download = Download::new(repository, digest, pending.size, job);
                Ok(BlobSource::Download(Box::new((download, copy))))
            }
            (ManifestSource::Layout(files, _) | ManifestSource::Saved(files, _), LayerSource::Member(name), _) => {
                let (file, offset, size) = files.open(name).map_err(as_layer_error)?;
                if size != pending.size {
                    return Err(LayerError::Size { is: size, should: pending.size });
                }
                let read =
                    file_part(file, offset, size).map_err(|source| LayerError::Io { what: "read the file", source })?;
                Ok(BlobSource::Part(read))
            }
            _ => Err(LayerError::Unfit("nothing says where it is")),
        }
    }
}

/// Layers that are ready, applied in their order.
struct LayerStack<'a> {
    pending: &'a [PendingLayer],
    /// By content, the first layer with it.
    first: &'a HashMap<Digest, usize>,
    waiting: HashMap<usize, Layer>,
    /// Entries of the layers that were applied, by their first layer, while a later layer needs them.
    entries: HashMap<usize, Vec<layer::LayerEntry>>,
    next: usize,
}

impl LayerStack<'_> {
    /// Accepts a layer that was read. A layer whose content is an earlier one's was only read to verify it.
    fn take(&mut self, number: usize, layer: Layer) {
        if self.first[&self.pending[number].diff_id] == number {
            self.waiting.insert(number, layer);
        }
    }

    /// Applies the layers that can be applied; `finished` gets the entries that are needed no longer.
    fn advance(
        &mut self,
        builder: &mut RootfsBuilder,
        finished: impl Fn(Option<Vec<layer::LayerEntry>>),
    ) -> Result<(), (usize, LayerError)> {
        while let Some(pending) = self.pending.get(self.next) {
            let number = self.next;
            let first = self.first[&pending.diff_id];
            if !self.entries.contains_key(&first) {
                let Some(layer) = self.waiting.remove(&first) else { return Ok(()) };
                builder.add_written(layer.written);
                self.entries.insert(first, layer.entries);
            }
            merge::apply(builder, &self.entries[&first]).map_err(|error| (number, error))?;
            self.next += 1;
            if !self.pending[self.next..].iter().any(|later| self.first[&later.diff_id] == first) {
                // The memory of names and attributes is needed no longer.
                finished(self.entries.insert(first, Vec::new()));
            }
        }
        Ok(())
    }
}

/// Progress of a layer's download: passes on notices only, because the layer reports its own bytes.
struct NoticesOnly<'a>(&'a dyn Progress);

impl Progress for NoticesOnly<'_> {
    fn phase(&self, what: &str) {
        self.0.phase(what);
    }

    fn notice(&self, text: &str) {
        self.0.notice(text);
    }

    fn advance(&self, _done: u64, _total: Option<u64>) {}
}

fn report(job: &Job<'_>, pending: &PendingLayer, state: PartState, done: u64) {
    job.progress.part(&Part { name: &pending.name.digest, state, done, total: pending.size });
}

fn plural(layers: usize) -> String {
    if layers == 1 { "1 layer".into() } else { format!("{layers} layers") }
}

/// Converts an error of the cache or of a file to one of a layer.
fn as_layer_error(error: OciError) -> LayerError {
    match error {
        OciError::Publish(error) => error.into(),
        OciError::Io { what, source, .. } => LayerError::Io { what, source },
        other => LayerError::Io { what: "read the layer", source: std::io::Error::other(other.to_string()) },
    }
}
