//! Layers on their way: several come at once, and each is put on top of those below when its turn comes.

use super::{LayerSource, ManifestSource, OpenedImage, PendingLayer};
use crate::{
    job::{Cancel, Job, Part, PartState, Progress},
    oci::{
        Digest, OciError,
        blob::{Blob, Download, Keep, Origin, part, whole},
        error::LayerError,
        hashing::HashPool,
        layer::{self, Layer, Measure},
        merge,
    },
    rootfs::{ContentWriter, RootfsBuilder, RootfsError, TargetImage},
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

/// Layers on their way at once.
const PARALLEL: usize = 3;
/// How often a waiting pull looks at the cancel flag.
const POLL: Duration = Duration::from_millis(25);

/// What layers that come at once have in common.
#[derive(Debug)]
struct Common {
    /// Bytes they unpacked to so far.
    used: AtomicU64,
    /// Where they are hashed.
    hash_pool: HashPool,
    /// Of each content the layer that brings it.
    first: HashMap<Digest, usize>,
    /// The image they are written into.
    site: Arc<TargetImage>,
    /// Layers that came with this pull and that the cache keeps.
    kept: Mutex<Vec<usize>>,
}

impl Common {
    /// Who writes what is in a layer.
    fn content_writer(
        &self,
        number: usize,
        pending: &PendingLayer,
        cancel: &Cancel,
    ) -> Result<ContentWriter, LayerError> {
        if self.first[&pending.diff_id] == number {
            return Ok(self.site.content_writer(number, cancel));
        }
        Ok(TargetImage::discard(number)?.content_writer(number, cancel))
    }
}

impl PendingLayer {
    /// All that is said of it.
    fn said(&self) -> (Option<Digest>, u64, Digest, &LayerSource) {
        (self.digest, self.size, self.diff_id, &self.place)
    }
}

impl OpenedImage<'_> {
    /// Reads all layers, several at once, and stacks them.
    pub(super) fn layers(
        &self,
        pending: &[PendingLayer],
        builder: &mut RootfsBuilder,
        job: &Job<'_>,
    ) -> Result<(), OciError> {
        job.progress.phase(&format!("getting {} of {}", plural(pending.len()), self.what));
        // The same bytes several times are read once. Other bytes that are the same unpacked are read as well, last, and put
        // nowhere: what an image is does not depend on how its layers are packed.
        let (mut first, mut said) = (HashMap::new(), HashSet::new());
        let (placed, again): (Vec<usize>, Vec<usize>) = (0..pending.len())
            .filter(|&n| said.insert(pending[n].said()))
            .partition(|&n| *first.entry(pending[n].diff_id).or_insert(n) == n);
        let queue: VecDeque<usize> = placed.iter().chain(&again).copied().collect();
        for &n in &queue {
            report(job, &pending[n], PartState::Waiting, 0);
        }
        // Else a pruning meanwhile takes those whose turn has not come, and they are downloaded again.
        let _held = self.hold_cached(pending);
        let workers = queue.len().min(PARALLEL);
        let site = builder.begin_image(placed.iter().copied(), placed.len().min(PARALLEL))?;
        let (used, hash_pool, kept) = (AtomicU64::default(), HashPool::default(), Mutex::default());
        let common = Common { used, hash_pool, first, site, kept };
        let queue = Mutex::new(queue);
        let stop = Cancel::default();
        let mut refused = None;
        let outcome = thread::scope(|scope| {
            let (ready, results) = channel();
            for _ in 0..workers {
                let (ready, queue, common) = (ready.clone(), &queue, &common);
                let job = Job { progress: job.progress, cancel: &stop };
                scope.spawn(move || self.worker(pending, queue, common, &job, &ready));
            }
            drop(ready);
            let first = &common.first;
            let mut stack = Stack { pending, first, waiting: HashMap::new(), placed: HashMap::new(), next: 0 };
            let outcome = loop {
                if let Err(cancelled) = job.cancel.check() {
                    break Err(cancelled.into());
                }
                match results.recv_timeout(POLL) {
                    Ok((number, layer)) => {
                        let stacked = layer.map_err(|source| (number, source)).and_then(|layer| {
                            stack.take(number, layer);
                            // Names take their time to go, which the next layer need not wait for.
                            let stacked = stack.advance(builder, |spent| drop(scope.spawn(|| drop(spent))));
                            stacked.inspect_err(|(number, _)| refused = Some(*number))
                        });
                        if let Err((number, source)) = stacked {
                            let name = pending[number].name.clone();
                            break Err(OciError::Layer { name, source: Box::new(source) });
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break Ok(()),
                }
            };
            // The others need not go on for the sake of an image that will not be.
            stop.cancel();
            outcome
        });
        // Nothing comes to the cache any more.
        if let (Some(number), Err(OciError::Layer { source, .. })) = (refused, &outcome) {
            self.forget_refused(number, source, pending, &common);
        }
        // Those that were not read to their end may be damaged too.
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
        common: &Common,
        job: &Job<'_>,
        ready: &Sender<(usize, Result<Layer, LayerError>)>,
    ) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(number) = next else { return };
            if job.cancel.is_cancelled() {
                return;
            }
            let writer = common.content_writer(number, &pending[number], job.cancel);
            let layer = writer.and_then(|writer| self.layer((number, &pending[number]), common, writer, job));
            if ready.send((number, layer)).is_err() {
                return;
            }
        }
    }

    fn layer(
        &self,
        (number, pending): (usize, &PendingLayer),
        common: &Common,
        writer: ContentWriter,
        job: &Job<'_>,
    ) -> Result<Layer, LayerError> {
        let Common { used, hash_pool, .. } = common;
        let limits = self.registries.limits;
        if pending.size > limits.max_unpacked {
            return Err(LayerError::TooLarge(limits.max_unpacked));
        }
        let words = Words(job.progress);
        let (origin, cached) = self.origin(pending, Job { progress: &words, cancel: job.cancel })?;
        let kept = match (&origin, pending.digest) {
            (Origin::Cached(file, _), Some(digest)) => file.get_ref().try_clone().ok().map(|file| (digest, file)),
            _ => None,
        };
        let begins = if cached { PartState::Cached } else { PartState::Coming };
        report(job, pending, begins, 0);
        let watcher = *job;
        let mut blob = Blob {
            origin: Some(origin),
            digest: pending.digest,
            size: pending.size,
            hash: pending.digest.map(|_| hash_pool.in_place_stream()),
            read: 0,
            ahead: 0,
            reported: 0,
            cancel: job.cancel,
            report: Box::new(move |bytes| report(&watcher, pending, begins, bytes)),
            failure: None,
            whole: false,
        };
        let (packed, diff_id) = (Some(pending.size), Some(pending.diff_id));
        let measure = Measure { limits, used, tally: &self.tally, packed, diff_id, hash_pool };
        let layer = layer::read(&mut blob, measure, writer, job).map_err(|error| match kept {
            // Whatever is wrong with it may be the cache's doing. Part of the image is made of it by now, so all of that
            // begins anew.
            Some((digest, file)) if self.is_stale(&error, &digest, &file, job.cancel) => LayerError::Stale,
            _ => error,
        })?;
        if blob.keep() {
            common.kept.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        }
        report(job, pending, PartState::Done, pending.size);
        Ok(layer)
    }

    /// Whether a layer failed because of what the cache had of it.
    fn is_stale(&self, error: &LayerError, digest: &Digest, file: &File, cancel: &Cancel) -> bool {
        matches!(error, LayerError::Digest { .. }) || self.registries.cache.is_damaged(digest, file, cancel)
    }

    /// Forgets a layer that came whole and turned out to fit nowhere, in all the ways it was packed: the cache has none that were
    /// refused. What was there before may be good for other images.
    fn forget_refused(&self, refused: usize, why: &LayerError, all: &[PendingLayer], common: &Common) {
        use RootfsError::{Cancelled, Io};
        // Nothing was found out about it.
        if matches!(why, LayerError::Cancelled(_) | LayerError::Rootfs(Cancelled(_) | Io { .. })) {
            return;
        }
        let cache = &self.registries.cache;
        for &number in &*common.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            let layer = &all[number];
            if layer.diff_id == all[refused].diff_id
                && let Some(digest) = layer.digest
                && let Some(file) = cache.get(&digest, layer.size)
            {
                cache.forget(&digest, &file);
            }
        }
    }

    /// Forgets all layers that are damaged in the cache, so that one more attempt finds none of them.
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

    /// All layers that are in the cache already, open, so that they stay there.
    fn hold_cached(&self, pending: &[PendingLayer]) -> Vec<File> {
        if !matches!(self.from, ManifestSource::Registry(..)) {
            return Vec::new();
        }
        let cache = &self.registries.cache;
        pending.iter().filter_map(|layer| cache.get(&layer.digest?, layer.size)).collect()
    }

    /// Where the bytes of a layer come from, and whether they are here already.
    fn origin<'b>(&'b self, pending: &PendingLayer, job: Job<'b>) -> Result<(Origin<'b>, bool), LayerError> {
        let cache = &self.registries.cache;
        match (&self.from, &pending.place, pending.digest) {
            (ManifestSource::Registry(repository, _), LayerSource::Registry, Some(digest)) => {
                if let Some(file) = cache.get(&digest, pending.size) {
                    return Ok((Origin::Cached(whole(file), cache), true));
                }
                let staged = match cache.stage() {
                    Err(error) if error.is_out_of_space() => None,
                    staged => Some(staged.map_err(as_layer_error)?),
                };
                let download = Download::new(repository, digest, pending.size, job);
                Ok((Origin::Download(Box::new((download, Keep { cache, staged }))), false))
            }
            (ManifestSource::Layout(files, _) | ManifestSource::Saved(files, _), LayerSource::Member(name), _) => {
                let (file, offset, size) = files.open(name).map_err(as_layer_error)?;
                if size != pending.size {
                    return Err(LayerError::Size { is: size, should: pending.size });
                }
                let read =
                    part(file, offset, size).map_err(|source| LayerError::Io { what: "read the file", source })?;
                Ok((Origin::Part(read), true))
            }
            _ => Err(LayerError::Unfit("nothing says where it is")),
        }
    }
}

/// Layers that are ready, put on top of each other in their order.
struct Stack<'a> {
    pending: &'a [PendingLayer],
    /// The first layer with the same content.
    first: &'a HashMap<Digest, usize>,
    waiting: HashMap<usize, Layer>,
    /// What is in those that were put there once.
    placed: HashMap<usize, Vec<layer::LayerEntry>>,
    next: usize,
}

impl Stack<'_> {
    /// Takes a layer that was read. One that is there in other bytes too was read for its own sake.
    fn take(&mut self, number: usize, layer: Layer) {
        if self.first[&self.pending[number].diff_id] == number {
            self.waiting.insert(number, layer);
        }
    }

    /// Puts on top what can be; `spent` gets what is needed no longer.
    fn advance(
        &mut self,
        builder: &mut RootfsBuilder,
        spent: impl Fn(Option<Vec<layer::LayerEntry>>),
    ) -> Result<(), (usize, LayerError)> {
        while let Some(pending) = self.pending.get(self.next) {
            let number = self.next;
            let first = self.first[&pending.diff_id];
            if !self.placed.contains_key(&first) {
                let Some(layer) = self.waiting.remove(&first) else { return Ok(()) };
                builder.add_written(layer.placed);
                self.placed.insert(first, layer.entries);
            }
            merge::apply(builder, &self.placed[&first]).map_err(|error| (number, error))?;
            self.next += 1;
            if !self.pending[self.next..].iter().any(|later| self.first[&later.diff_id] == first) {
                // Names and attributes need their memory no longer.
                spent(self.placed.insert(first, Vec::new()));
            }
        }
        Ok(())
    }
}

/// What a download of a layer has to say: how far it is, its layer says.
struct Words<'a>(&'a dyn Progress);

impl Progress for Words<'_> {
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

/// A failure of the cache or of a file, as one of a layer.
fn as_layer_error(error: OciError) -> LayerError {
    match error {
        OciError::Publish(error) => error.into(),
        OciError::Io { what, source, .. } => LayerError::Io { what, source },
        other => LayerError::Io { what: "read the layer", source: std::io::Error::other(other.to_string()) },
    }
}
