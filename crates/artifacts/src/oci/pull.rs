//! Pull of an image: from its source to a filled builder.
//!
//! Opening an image costs its manifest and nothing else, so that an image that exists already is recognised by its
//! digest. Filling a builder downloads what the cache does not have, several layers at once, and applies the layers in
//! their order as they become ready.

mod layers;

use super::{
    BlobCache, Credentials, Digest, ImageSource, Limits, OciError, Platform, Reference, RunConfig,
    archive::{ArchiveFiles, FoundImage, SavedImage, blob_name, choose},
    document::{ConfigFile, Descriptor, Document, Manifest, check_manifest},
    error::{LayerError, LayerName},
    layer::Tally,
    registry::Repository,
};
use crate::{fetch::Client, job::Job, rootfs::RootfsBuilder};
use std::path::{Path, PathBuf};

/// Upper bound of nested image indexes that are followed.
const MAX_DEPTH: usize = 4;

/// Configuration of pulls.
#[derive(Debug, Clone)]
pub struct Registries {
    /// Client for downloads, with its timeouts.
    pub client: Client,
    /// Credentials for registries.
    pub credentials: Credentials,
    /// Directories with one directory of certificates per registry.
    pub certificates: Vec<PathBuf>,
    /// Cache of layers.
    pub cache: BlobCache,
    /// Limits of an image.
    pub limits: Limits,
}

/// Image whose manifest, or an index that names it, was read.
pub struct OpenedImage<'a> {
    registries: &'a Registries,
    /// Source, for messages.
    what: String,
    asked: Platform,
    digest: Digest,
    name: Option<String>,
    from: ManifestSource<'a>,
    tally: Tally,
}

enum ManifestSource<'a> {
    Registry(Box<Repository<'a>>, KnownManifest),
    Layout(ArchiveFiles, Manifest),
    Saved(ArchiveFiles, SavedImage),
}

/// Known part of a manifest in a registry.
enum KnownManifest {
    /// The manifest itself.
    Manifest(Manifest),
    /// Its length, according to an index.
    Length(u64),
}

/// Configuration of an image, besides the files in the builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Settings for running its commands.
    pub run: RunConfig,
    /// Platform it was made for.
    pub platform: Platform,
}

/// Layer that was not read yet.
struct PendingLayer {
    name: LayerName,
    digest: Option<Digest>,
    diff_id: Digest,
    size: u64,
    source: LayerSource,
}

#[derive(PartialEq, Eq, Hash)]
enum LayerSource {
    Registry,
    Member(String),
}

impl Registries {
    /// Finds the image for `platform`. `work` is a directory for temporary files.
    pub fn open(
        &self,
        source: &ImageSource,
        platform: &Platform,
        work: &Path,
        job: &Job<'_>,
    ) -> Result<OpenedImage<'_>, OciError> {
        let opened = |digest, name, from| {
            let (what, asked, tally) = (source.called(), platform.clone(), Tally::default());
            Ok(OpenedImage { registries: self, what, asked, digest, name, from, tally })
        };
        let found = |files: ArchiveFiles, name: Option<&str>| {
            let FoundImage { manifest, digest, name } = files.find(name, platform)?;
            opened(digest, name, ManifestSource::Layout(files, manifest))
        };
        match source {
            ImageSource::Registry(reference) => {
                let (repository, digest, known) = self.look_up(reference, platform, job)?;
                opened(digest, None, ManifestSource::Registry(Box::new(repository), known))
            }
            ImageSource::Layout(archive) => {
                let (path, name) = archive.split();
                found(ArchiveFiles::directory(path)?, name)
            }
            ImageSource::OciArchive(archive) => {
                let (path, name) = archive.split();
                found(ArchiveFiles::tar(path, work, self.limits, job)?, name)
            }
            ImageSource::DockerArchive(archive) => {
                let (path, name) = archive.split();
                let files = ArchiveFiles::tar(path, work, self.limits, job)?;
                let saved = files.saved(name)?;
                let config = files.read(&saved.config)?;
                let name = saved.tag().map(str::to_owned);
                opened(Digest::of(&config), name, ManifestSource::Saved(files, saved))
            }
        }
    }

    /// Returns the digest of the manifest a reference leads to, and what became known of it on the way.
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
                Document::Manifest(manifest) => return Ok((repository, is, KnownManifest::Manifest(manifest))),
                Document::Index(all) => {
                    let chosen = choose(&all, platform).map_err(|there| OciError::Platform {
                        asked: platform.clone(),
                        of: of.clone(),
                        there,
                    })?;
                    if !is_list(chosen) {
                        // The digest is enough to know whether the image exists already.
                        return Ok((repository, chosen.digest, KnownManifest::Length(chosen.size)));
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
    /// Returns the digest that identifies the image: that of its manifest, or, for an image written by `docker save`,
    /// of its configuration.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the name the image has in its archive.
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
        if config.platform.is_undeclared() {
            return Err(OciError::NoPlatform { of: self.what });
        }
        if config.platform.serves(&self.asked) == 0 {
            return Err(OciError::Platform { asked: self.asked, of: self.what, there: vec![config.platform] });
        }
        let count = layers.len();
        let mut pending = Vec::with_capacity(count);
        for (number, ((digest, size, source), diff_id)) in layers.into_iter().zip(config.diff_ids).enumerate() {
            let name = LayerName { number: number + 1, of: count, digest: digest.unwrap_or(diff_id).short() };
            pending.push(PendingLayer { name, digest, diff_id, size, source });
        }
        self.layers(&pending, builder, job)?;
        Ok(ImageConfig { run: config.run, platform: config.platform })
    }

    /// Returns the configuration, and each layer's digest, size and source.
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
            ManifestSource::Registry(repository, known) => {
                let manifest = match known {
                    KnownManifest::Manifest(manifest) => manifest.clone(),
                    KnownManifest::Length(length) => fetch_manifest(repository, self.digest, *length, &of, job)?,
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
            let source = if registry { LayerSource::Registry } else { LayerSource::Member(blob_name(&layer.digest)) };
            (Some(layer.digest), layer.size, source)
        });
        Ok((config, layers.collect()))
    }
}

/// Checks that all layers have the media type of a layer. Checked before the configuration: artifacts other than images
/// (a chart, a signature) have one that says nothing.
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

/// Whether a descriptor names another index.
fn is_list(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list")
}

fn fetch_manifest(
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
