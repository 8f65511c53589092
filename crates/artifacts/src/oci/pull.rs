//! From where an image comes to a filled builder.
//!
//! Opening an image costs its manifest and nothing else, so that one that is here already is known by its digest.
//! Filling downloads what the cache does not have, several layers at once, and puts them on top of each other in their
//! order as they become ready.

mod layers;

use super::{
    BlobCache, Credentials, Digest, ImageSource, Limits, OciError, Platform, Reference, RunConfig,
    archive::{Files, Found, Saved, blob_name, choose},
    document::{ConfigFile, Descriptor, Document, Manifest, check_manifest},
    error::{LayerError, LayerName},
    layer::Tally,
    registry::Repository,
};
use crate::{fetch::Client, job::Job, rootfs::RootfsBuilder};
use std::path::{Path, PathBuf};

/// Most lists of lists that are followed.
const MAX_DEPTH: usize = 4;

/// What pulls are made with.
#[derive(Debug, Clone)]
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
pub struct OpenedImage<'a> {
    registries: &'a Registries,
    /// For messages.
    what: String,
    asked: Platform,
    digest: Digest,
    name: Option<String>,
    from: ManifestSource<'a>,
    tally: Tally,
}

enum ManifestSource<'a> {
    Registry(Box<Repository<'a>>, KnownManifest),
    Layout(Files, Manifest),
    Saved(Files, Saved),
}

/// What is known of a manifest in a registry.
enum KnownManifest {
    /// What it says.
    Read(Manifest),
    /// Its length, which a list says.
    Listed(u64),
}

/// What a filled builder does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// How its commands want to be run.
    pub run: RunConfig,
    /// What it was made for.
    pub platform: Platform,
}

/// One layer before it comes.
struct PendingLayer {
    name: LayerName,
    digest: Option<Digest>,
    diff_id: Digest,
    size: u64,
    place: LayerSource,
}

#[derive(PartialEq, Eq, Hash)]
enum LayerSource {
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
    ) -> Result<OpenedImage<'_>, OciError> {
        let opened = |digest, name, from| {
            let (what, asked, tally) = (source.to_string(), platform.clone(), Tally::default());
            Ok(OpenedImage { registries: self, what, asked, digest, name, from, tally })
        };
        let found = |files: Files, name: Option<&str>| {
            let Found { manifest, digest, name } = files.find(name, platform)?;
            opened(digest, name, ManifestSource::Layout(files, manifest))
        };
        match source {
            ImageSource::Registry(reference) => {
                let (repository, digest, lead) = self.look_up(reference, platform, job)?;
                opened(digest, None, ManifestSource::Registry(Box::new(repository), lead))
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
                opened(Digest::of(&config), name, ManifestSource::Saved(files, saved))
            }
        }
    }

    /// The digest of the manifest a reference leads to, and what is known of it on the way there.
    fn look_up(
        &self,
        reference: &Reference,
        platform: &Platform,
        job: &Job<'_>,
    ) -> Result<(Repository<'_>, Digest, KnownManifest), OciError> {
        let repository = Repository::new(&self.client, &self.credentials, &self.certificates, reference.clone());
        let of = reference.to_string();
        let (mut version, mut should, mut length) = (reference.version(), reference.digest(), None);
        for _ in 0..MAX_DEPTH {
            let answer = repository.document(&version, job)?;
            let is = check_manifest(&answer.bytes, should, length, &of)?;
            let document = Document::parse(&answer.bytes, answer.media_type.as_deref());
            let document =
                document.map_err(|source| OciError::Document { what: "manifest", of: of.clone(), source })?;
            match document {
                Document::Manifest(manifest) => return Ok((repository, is, KnownManifest::Read(manifest))),
                Document::Index(all) => {
                    let chosen = choose(&all, platform).map_err(|there| OciError::Platform {
                        asked: platform.clone(),
                        of: of.clone(),
                        there,
                    })?;
                    if !is_list(chosen) {
                        // What it holds need not be known to know whether it is here.
                        return Ok((repository, chosen.digest, KnownManifest::Listed(chosen.size)));
                    }
                    (version, should, length) = (chosen.digest.to_string(), Some(chosen.digest), Some(chosen.size));
                }
            }
        }
        let source = super::document::DocumentError::Unsupported("lists lead to lists without end".into());
        Err(OciError::Document { what: "manifest", of, source })
    }
}

impl OpenedImage<'_> {
    /// What tells this image from others: the digest of its manifest, or, of what `docker save` wrote, of its
    /// configuration.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What the file it is in calls it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Puts the image's files into `builder`.
    pub fn fill(mut self, builder: &mut RootfsBuilder, job: &Job<'_>) -> Result<ImageConfig, OciError> {
        let (config, layers) = self.read_manifest(job)?;
        let limits = self.registries.limits;
        if layers.len() > limits.max_layers {
            return Err(OciError::TooManyLayers { of: self.what, layers: layers.len(), max: limits.max_layers });
        }
        if config.diff_ids.len() != layers.len() {
            let (layers, diff_ids) = (layers.len(), config.diff_ids.len());
            return Err(OciError::LayerCount { of: self.what, layers, diff_ids });
        }
        if config.platform.is_unsaid() {
            return Err(OciError::NoPlatform { of: self.what });
        }
        if config.platform.serves(&self.asked) == 0 {
            return Err(OciError::Platform { asked: self.asked, of: self.what, there: vec![config.platform] });
        }
        let count = layers.len();
        let mut pending = Vec::with_capacity(count);
        for (number, ((digest, size, place), diff_id)) in layers.into_iter().zip(config.diff_ids).enumerate() {
            let name = LayerName { number: number + 1, of: count, digest: digest.unwrap_or(diff_id).short() };
            pending.push(PendingLayer { name, digest, diff_id, size, place });
        }
        self.layers(&pending, builder, job)?;
        Ok(ImageConfig { run: config.run, platform: config.platform })
    }

    /// The configuration, and each layer's digest, size and place.
    #[expect(clippy::type_complexity, reason = "three facts about each layer, named where they are taken apart")]
    fn read_manifest(
        &mut self,
        job: &Job<'_>,
    ) -> Result<(ConfigFile, Vec<(Option<Digest>, u64, LayerSource)>), OciError> {
        let of = self.what.clone();
        let read = |bytes: &[u8]| {
            ConfigFile::parse(bytes).map_err(|source| OciError::Document {
                what: "configuration",
                of: of.clone(),
                source,
            })
        };
        let (manifest, config) = match &mut self.from {
            ManifestSource::Saved(files, saved) => {
                let config = read(&files.read(&saved.config)?)?;
                let layers = saved.layers().iter().map(|member| {
                    let (_, _, size) = files.open(member)?;
                    Ok((None, size, LayerSource::Member(member.clone())))
                });
                return Ok((config, layers.collect::<Result<_, OciError>>()?));
            }
            ManifestSource::Layout(files, manifest) => {
                check_layers(manifest)?;
                let bytes = files.read(&blob_name(&manifest.config.digest))?;
                (manifest.clone(), bytes)
            }
            ManifestSource::Registry(repository, lead) => {
                let manifest = match lead {
                    KnownManifest::Read(manifest) => manifest.clone(),
                    KnownManifest::Listed(length) => manifest_of(repository, self.digest, *length, &of, job)?,
                };
                check_layers(&manifest)?;
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
        let registry = matches!(self.from, ManifestSource::Registry(..));
        let layers = manifest.layers.iter().map(|layer| {
            let place = if registry { LayerSource::Registry } else { LayerSource::Member(blob_name(&layer.digest)) };
            (Some(layer.digest), layer.size, place)
        });
        Ok((config, layers.collect()))
    }
}

/// Whether all layers can be some. Looked at before the configuration: what is no image at all (a chart, a signature) has one
/// that says nothing.
fn check_layers(manifest: &Manifest) -> Result<(), OciError> {
    let of = manifest.layers.len();
    for (number, layer) in manifest.layers.iter().enumerate() {
        if let Some(why) = layer.unfit_as_layer() {
            let name = LayerName { number: number + 1, of, digest: layer.digest.short() };
            return Err(OciError::Layer { name, source: Box::new(LayerError::Unfit(why)) });
        }
    }
    Ok(())
}

/// Whether a descriptor leads to another list.
fn is_list(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list")
}

fn manifest_of(
    repository: &Repository<'_>,
    digest: Digest,
    length: u64,
    of: &str,
    job: &Job<'_>,
) -> Result<Manifest, OciError> {
    let answer = repository.document(&digest.to_string(), job)?;
    check_manifest(&answer.bytes, Some(digest), Some(length), of)?;
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
