//! From where an image comes to a filled builder.
//!
//! Opening an image costs its manifest and nothing else, so that one that is here already is known by its digest.
//! Filling downloads what the cache does not have, several layers at once, and puts them on top of each other in their
//! order as they become ready.

use super::{
    BlobCache, Credentials, Digest, ImageSource, OciError, Platform, Reference, RunConfig,
    archive::{Files, Found, Saved, blob_name, choose},
    blob::{Blob, Download, Keep, Origin, part},
    document::{ConfigFile, Descriptor, Document, Manifest},
    error::{LayerError, LayerName},
    layer::{self, Layer, Measure},
    merge,
    registry::Repository,
};
use crate::{
    fetch::Client,
    job::{Cancel, Job, Part, PartState},
    rootfs::{Adopted, RootfsBuilder},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::AtomicU64,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

/// Layers on their way at once.
const PARALLEL: usize = 3;
/// Most lists of lists that are followed.
const MAX_DEPTH: usize = 4;
/// How often a waiting pull looks at the cancel flag.
const POLL: Duration = Duration::from_millis(25);

/// What an image may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Layers.
    pub max_layers: usize,
    /// Bytes of all layers, unpacked.
    pub max_unpacked: u64,
    /// How many times its size a layer may unpack to.
    pub max_ratio: u64,
    /// Unpacked bytes of a layer up to which that does not count: a log of zeros is no bomb.
    pub harmless: u64,
    /// Entries of all layers.
    pub max_entries: u64,
    /// Bytes of names, link targets and attributes of one layer.
    pub max_metadata: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_layers: 127,
            max_unpacked: 64 << 30,
            max_ratio: 1000,
            harmless: 256 << 20,
            max_entries: 4_000_000,
            max_metadata: 512 << 20,
        }
    }
}

/// What pulls are made with.
#[derive(Debug)]
pub struct Registries {
    /// How patient downloads are.
    pub client: Client,
    /// Who asks.
    pub credentials: Credentials,
    /// Directories with a directory of certificates per registry.
    pub certificates: Vec<PathBuf>,
    /// Where layers are kept.
    pub cache: BlobCache,
    /// What an image may be.
    pub limits: Limits,
}

/// An image whose manifest, or a list that names it, was read.
pub struct Opened<'a> {
    registries: &'a Registries,
    /// For messages.
    what: String,
    asked: Platform,
    digest: Digest,
    name: Option<String>,
    from: Way<'a>,
}

enum Way<'a> {
    Registry(Box<Repository<'a>>, Option<Manifest>),
    Layout(Files, Manifest),
    Saved(Files, Saved),
}

/// What a filled builder does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// How its commands want to be run.
    pub run: RunConfig,
    /// What it was made for.
    pub platform: Platform,
}

/// One layer before it comes.
struct Pending {
    name: LayerName,
    digest: Option<Digest>,
    diff_id: Digest,
    size: u64,
    place: Place,
}

enum Place {
    Registry,
    Member(String),
}

impl Registries {
    /// Finds the image for `platform`. `work` is a directory for files of its own.
    pub fn open(
        &self,
        source: &ImageSource,
        platform: &Platform,
        work: &Path,
        job: &Job<'_>,
    ) -> Result<Opened<'_>, OciError> {
        let opened = |digest, name, from| {
            Ok(Opened { registries: self, what: source.to_string(), asked: platform.clone(), digest, name, from })
        };
        let found = |files: Files, name: Option<&str>| {
            let Found { manifest, digest, name } = files.find(name, platform)?;
            opened(digest, name, Way::Layout(files, manifest))
        };
        match source {
            ImageSource::Registry(reference) => {
                let (repository, digest, manifest) = self.look_up(reference, platform, job)?;
                opened(digest, None, Way::Registry(Box::new(repository), manifest))
            }
            ImageSource::Layout(place) => {
                let (path, name) = place.split();
                found(Files::directory(path), name)
            }
            ImageSource::OciArchive(place) => {
                let (path, name) = place.split();
                found(Files::tar(path, work, self.limits, job)?, name)
            }
            ImageSource::DockerArchive(place) => {
                let (path, name) = place.split();
                let files = Files::tar(path, work, self.limits, job)?;
                let saved = files.saved(name)?;
                let config = files.read(&saved.config)?;
                let name = saved.tag().map(str::to_owned);
                opened(Digest::of(&config), name, Way::Saved(files, saved))
            }
        }
    }

    /// The digest of the manifest a reference leads to, and the manifest if it was read on the way.
    fn look_up(
        &self,
        reference: &Reference,
        platform: &Platform,
        job: &Job<'_>,
    ) -> Result<(Repository<'_>, Digest, Option<Manifest>), OciError> {
        let repository = Repository::new(&self.client, &self.credentials, &self.certificates, reference.clone());
        let of = reference.to_string();
        let (mut version, mut should) = (reference.version(), reference.digest());
        for _ in 0..MAX_DEPTH {
            let answer = repository.document(&version, job)?;
            let is = Digest::of(&answer.bytes);
            if let Some(should) = should.filter(|&should| should != is) {
                return Err(OciError::Digest { what: "manifest", of, is, should });
            }
            let document = Document::parse(&answer.bytes, answer.media_type.as_deref());
            let document =
                document.map_err(|source| OciError::Document { what: "manifest", of: of.clone(), source })?;
            match document {
                Document::Manifest(manifest) => return Ok((repository, is, Some(manifest))),
                Document::Index(all) => {
                    let chosen = choose(&all, platform).map_err(|there| OciError::Platform {
                        asked: platform.clone(),
                        of: of.clone(),
                        there,
                    })?;
                    if !is_list(chosen) {
                        // What it holds need not be known to know whether it is here.
                        return Ok((repository, chosen.digest, None));
                    }
                    (version, should) = (chosen.digest.to_string(), Some(chosen.digest));
                }
            }
        }
        let source = super::document::DocumentError::Unsupported("lists lead to lists without end".into());
        Err(OciError::Document { what: "manifest", of, source })
    }
}

impl Opened<'_> {
    /// What tells this image from others: the digest of its manifest, or, of what `docker save` wrote, of its
    /// configuration.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What the file it is in calls it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Puts the image's files into `builder`. `work` is a directory on the file system the image will be on.
    pub fn fill(mut self, builder: &mut RootfsBuilder, work: &Path, job: &Job<'_>) -> Result<Filled, OciError> {
        let (config, layers) = self.read_manifest(job)?;
        let limits = self.registries.limits;
        if layers.len() > limits.max_layers {
            return Err(OciError::TooManyLayers { of: self.what, layers: layers.len(), max: limits.max_layers });
        }
        if config.diff_ids.len() != layers.len() {
            let (layers, diff_ids) = (layers.len(), config.diff_ids.len());
            return Err(OciError::LayerCount { of: self.what, layers, diff_ids });
        }
        if config.platform.serves(&self.asked) == 0 {
            return Err(OciError::Platform { asked: self.asked, of: self.what, there: vec![config.platform] });
        }
        let count = layers.len();
        let mut pending = Vec::with_capacity(count);
        for (number, ((digest, size, place), diff_id)) in layers.into_iter().zip(config.diff_ids).enumerate() {
            let name = LayerName { number: number + 1, of: count, digest: digest.unwrap_or(diff_id).short() };
            pending.push(Pending { name, digest, diff_id, size, place });
        }
        self.layers(&pending, builder, work, job)?;
        Ok(Filled { run: config.run, platform: config.platform })
    }

    /// The configuration, and each layer's digest, size and place.
    #[expect(clippy::type_complexity, reason = "three facts about each layer, named where they are taken apart")]
    fn read_manifest(&mut self, job: &Job<'_>) -> Result<(ConfigFile, Vec<(Option<Digest>, u64, Place)>), OciError> {
        let of = self.what.clone();
        let read = |bytes: &[u8]| {
            ConfigFile::parse(bytes).map_err(|source| OciError::Document {
                what: "configuration",
                of: of.clone(),
                source,
            })
        };
        let (manifest, config) = match &mut self.from {
            Way::Saved(files, saved) => {
                let config = read(&files.read(&saved.config)?)?;
                let layers = saved.layers().iter().map(|member| {
                    let (_, _, size) = files.open(member)?;
                    Ok((None, size, Place::Member(member.clone())))
                });
                return Ok((config, layers.collect::<Result<_, OciError>>()?));
            }
            Way::Layout(files, manifest) => {
                let bytes = files.read(&blob_name(&manifest.config.digest))?;
                (manifest.clone(), bytes)
            }
            Way::Registry(repository, manifest) => {
                let manifest = match manifest.take() {
                    Some(manifest) => manifest,
                    None => manifest_of(repository, self.digest, &of, job)?,
                };
                let config = repository.small_blob(&manifest.config.digest, job)?.bytes;
                (manifest, config)
            }
        };
        let (is, should) = (Digest::of(&config), manifest.config.digest);
        if config.len() as u64 != manifest.config.size {
            let (is, should) = (config.len() as u64, manifest.config.size);
            return Err(OciError::Size { what: "configuration", of, is, should });
        }
        if is != should {
            return Err(OciError::Digest { what: "configuration", of, is, should });
        }
        let config = read(&config)?;
        let registry = matches!(self.from, Way::Registry(..));
        let count = manifest.layers.len();
        let mut layers = Vec::with_capacity(count);
        for (number, layer) in manifest.layers.iter().enumerate() {
            if let Some(why) = layer.unfit_as_layer() {
                let name = LayerName { number: number + 1, of: count, digest: layer.digest.short() };
                return Err(OciError::Layer { name, source: Box::new(LayerError::Unfit(why)) });
            }
            let place = if registry { Place::Registry } else { Place::Member(blob_name(&layer.digest)) };
            layers.push((Some(layer.digest), layer.size, place));
        }
        Ok((config, layers))
    }

    /// Reads all layers, several at once, and stacks them.
    fn layers(
        &self,
        pending: &[Pending],
        builder: &mut RootfsBuilder,
        work: &Path,
        job: &Job<'_>,
    ) -> Result<(), OciError> {
        job.progress.phase(&format!("getting {} of {}", plural(pending.len()), self.what));
        let used = AtomicU64::new(0);
        // The same bytes several times are read once.
        let mut first = HashMap::new();
        let queue: VecDeque<usize> =
            (0..pending.len()).filter(|&n| *first.entry(pending[n].diff_id).or_insert(n) == n).collect();
        for &n in &queue {
            report(job, &pending[n], PartState::Waiting, 0);
        }
        let workers = queue.len().min(PARALLEL);
        let queue = Mutex::new(queue);
        let stop = Cancel::default();
        thread::scope(|scope| {
            let (ready, results) = channel();
            for _ in 0..workers {
                let (ready, queue, used) = (ready.clone(), &queue, &used);
                let job = Job { progress: job.progress, cancel: &stop };
                scope.spawn(move || self.worker(pending, queue, used, work, &job, &ready));
            }
            drop(ready);
            let mut stack = Stack { pending, first: &first, waiting: HashMap::new(), placed: HashMap::new(), next: 0 };
            let outcome = loop {
                if let Err(cancelled) = job.cancel.check() {
                    break Err(cancelled.into());
                }
                match results.recv_timeout(POLL) {
                    Ok((number, layer)) => {
                        let stacked = layer.map_err(|source| (number, source)).and_then(|layer| {
                            stack.waiting.insert(number, layer);
                            stack.advance(builder)
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
        })
    }

    fn worker(
        &self,
        pending: &[Pending],
        queue: &Mutex<VecDeque<usize>>,
        used: &AtomicU64,
        work: &Path,
        job: &Job<'_>,
        ready: &Sender<(usize, Result<Layer, LayerError>)>,
    ) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(number) = next else { return };
            if job.cancel.is_cancelled() {
                return;
            }
            let layer = self.layer(&pending[number], used, work, job);
            if ready.send((number, layer)).is_err() {
                return;
            }
        }
    }

    fn layer(&self, pending: &Pending, used: &AtomicU64, work: &Path, job: &Job<'_>) -> Result<Layer, LayerError> {
        let limits = self.registries.limits;
        if pending.size > limits.max_unpacked {
            return Err(LayerError::TooLarge(limits.max_unpacked));
        }
        let (origin, cached) = self.origin(pending, *job)?;
        let begins = if cached { PartState::Cached } else { PartState::Coming };
        report(job, pending, begins, 0);
        let watcher = *job;
        let blob = Blob {
            origin: Some(origin),
            digest: pending.digest,
            size: pending.size,
            hash: Sha256::new(),
            read: 0,
            reported: 0,
            report: Box::new(move |bytes| report(&watcher, pending, begins, bytes)),
            failure: None,
        };
        let measure = Measure { limits, used, packed: Some(pending.size), diff_id: Some(pending.diff_id) };
        let layer = layer::read(blob, measure, work, job)?;
        report(job, pending, PartState::Done, pending.size);
        Ok(layer)
    }

    /// Where the bytes of a layer come from, and whether they are here already.
    fn origin<'b>(&'b self, pending: &Pending, job: Job<'b>) -> Result<(Origin<'b>, bool), LayerError> {
        let cache = &self.registries.cache;
        match (&self.from, &pending.place, pending.digest) {
            (Way::Registry(repository, _), Place::Registry, Some(digest)) => {
                if let Some(file) = cache.get(&digest, pending.size) {
                    return Ok((Origin::Cached(file, cache), true));
                }
                let staged = cache.stage().map_err(unusual)?;
                let download = Download::new(repository, digest, pending.size, job);
                Ok((Origin::Download(Box::new((download, Keep { cache, staged }))), false))
            }
            (Way::Layout(files, _) | Way::Saved(files, _), Place::Member(name), _) => {
                let (file, offset, size) = files.open(name).map_err(unusual)?;
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
    pending: &'a [Pending],
    /// The first layer with the same bytes.
    first: &'a HashMap<Digest, usize>,
    waiting: HashMap<usize, Layer>,
    /// Where the bytes of those are that were put there once, with what is in them.
    placed: HashMap<usize, (Vec<layer::LayerEntry>, Adopted)>,
    next: usize,
}

impl Stack<'_> {
    fn advance(&mut self, builder: &mut RootfsBuilder) -> Result<(), (usize, LayerError)> {
        while let Some(pending) = self.pending.get(self.next) {
            let number = self.next;
            let first = self.first[&pending.diff_id];
            if !self.placed.contains_key(&first) {
                let Some(layer) = self.waiting.remove(&first) else { return Ok(()) };
                let adopted = builder.adopt(layer.spool);
                self.placed.insert(first, (layer.entries, adopted));
            }
            let (entries, adopted) = &self.placed[&first];
            merge::apply(builder, entries, *adopted).map_err(|error| (number, error))?;
            self.next += 1;
            if !self.pending[self.next..].iter().any(|later| self.first[&later.diff_id] == first) {
                // Names and attributes need their memory no longer; the bytes are the builder's.
                if let Some((entries, _)) = self.placed.get_mut(&first) {
                    *entries = Vec::new();
                }
            }
        }
        Ok(())
    }
}

fn report(job: &Job<'_>, pending: &Pending, state: PartState, done: u64) {
    job.progress.part(&Part { name: &pending.name.digest, state, done, total: pending.size });
}

fn plural(layers: usize) -> String {
    if layers == 1 { "1 layer".into() } else { format!("{layers} layers") }
}

/// Whether a descriptor leads to another list.
fn is_list(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list")
}

fn manifest_of(repository: &Repository<'_>, should: Digest, of: &str, job: &Job<'_>) -> Result<Manifest, OciError> {
    let answer = repository.document(&should.to_string(), job)?;
    let is = Digest::of(&answer.bytes);
    if is != should {
        return Err(OciError::Digest { what: "manifest", of: of.to_owned(), is, should });
    }
    let document = Document::parse(&answer.bytes, answer.media_type.as_deref());
    match document.map_err(|source| OciError::Document { what: "manifest", of: of.to_owned(), source })? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(OciError::Document {
            what: "manifest",
            of: of.to_owned(),
            source: super::document::DocumentError::Unsupported("it is a list where an image should be".into()),
        }),
    }
}

/// A failure of the cache or of a file, as one of a layer.
fn unusual(error: OciError) -> LayerError {
    match error {
        OciError::Publish(error) => error.into(),
        OciError::Io { what, source, .. } => LayerError::Io { what, source },
        other => LayerError::Io { what: "read the layer", source: std::io::Error::other(other.to_string()) },
    }
}
