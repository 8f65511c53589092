//! Documents of a registry: manifests, indexes of them, and the configuration of an image.
//!
//! Reads OCI's documents and those of Docker's schema 2, which have the same structure. Every list and text in them is
//! bounded before it is used.

use super::{Digest, InvalidDigest, OciError, Platform};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use std::collections::BTreeMap;

/// Largest document, in bytes: the limit of registries themselves.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Upper bound of the manifests in an index.
const MAX_MANIFESTS: usize = 1024;
/// Upper bound of the layers that are parsed; how many are allowed is configured.
const MAX_LAYERS: usize = 4096;
/// Upper bound of the bytes of environment, entry point and command together, as JSON, and of the overhead counted for
/// each word: all of it goes into an image's manifest, whose size is limited.
const MAX_RUN_CONFIG: usize = 512 << 10;
const WORD_OVERHEAD: usize = 16;

/// Media types of manifests, best first, for an `Accept` header.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Media types of an image's configuration.
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Reason why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is longer than any valid document.
    #[error("it has more than 4 MiB")]
    TooLarge,
    /// It is not the expected JSON.
    #[error("it is malformed")]
    Json(#[from] serde_json::Error),
    /// It is of an obsolete schema or has another purpose.
    #[error("{0}")]
    Unsupported(String),
    /// It has a list that is too long.
    #[error("it lists {0} {1}, more than {2}")]
    TooMany(usize, &'static str, usize),
}

/// Document that a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    /// Index: manifests for several platforms, without the statements about them that are listed among them.
    Index(Vec<Descriptor>),
    /// Manifest of one image.
    Manifest(Manifest),
}

/// Manifest of an image: its configuration and its layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// Reference from one document to a blob or another document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    /// Name, in the index of an OCI layout: containerd's where there is one, otherwise the tag.
    pub(super) name: Option<String>,
    /// `org.opencontainers.image.ref.name`: a bare tag by the specification, a whole name from some writers.
    pub(super) tag: Option<String>,
}

/// Configuration of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigFile {
    pub(super) platform: Platform,
    /// Digest of each layer's decompressed bytes.
    pub(super) diff_ids: Vec<Digest>,
    pub(super) run: RunConfig,
}

/// Settings for running an image's commands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunConfig {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// Words in front of the command.
    pub entrypoint: Vec<String>,
    /// Default command.
    pub cmd: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: AnyDigest,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    artifact_type: Option<String>,
}

/// Digest by whatever algorithm.
#[derive(Deserialize)]
#[serde(try_from = "String")]
enum AnyDigest {
    Sha256(Digest),
    /// One that cannot be verified here, such as `sha512`: its algorithm.
    Other(String),
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfigFile {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    config: RawRun,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "words")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "words")]
    cmd: Vec<String>,
}

/// Accepts `null`, which Go writes for empty values.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Accepts a single word in place of a list, as Docker does.
fn words<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        List(Vec<String>),
    }
    Ok(match Option::deserialize(input)? {
        None => Vec::new(),
        Some(Words::One(word)) => vec![word],
        Some(Words::List(list)) => list,
    })
}

impl Document {
    /// Parses a document; `media_type` is the server's, for documents that do not contain one.
    pub(super) fn parse(json: &[u8], media_type: Option<&str>) -> Result<Self, DocumentError> {
        let raw: RawDocument = parse(json)?;
        let kind = raw.media_type.or_else(|| media_type.map(str::to_owned)).unwrap_or_default();
        if raw.schema_version == Some(1) || kind.contains("manifest.v1+prettyjws") {
            let why = "it is of Docker's first schema, which no longer exists in current registries";
            return Err(DocumentError::Unsupported(why.into()));
        }
        match (raw.manifests, raw.config, raw.layers) {
            // Different readers would read a document with both differently.
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                Err(DocumentError::Unsupported("it is a list and a manifest at once".into()))
            }
            (Some(manifests), ..) => {
                if manifests.len() > MAX_MANIFESTS {
                    return Err(DocumentError::TooMany(manifests.len(), "manifests", MAX_MANIFESTS));
                }
                let images = manifests.into_iter().filter(|manifest| !manifest.is_statement());
                // Those that can be verified are offered; that none can be is said.
                let (known, other): (Vec<_>, Vec<_>) = images.map(RawDescriptor::read).partition(Result::is_ok);
                match other.into_iter().next() {
                    Some(Err(why)) if known.is_empty() => Err(why),
                    _ => Ok(Self::Index(known.into_iter().flatten().collect())),
                }
            }
            (None, Some(config), layers) => {
                let layers = layers.unwrap_or_default();
                if layers.len() > MAX_LAYERS {
                    return Err(DocumentError::TooMany(layers.len(), "layers", MAX_LAYERS));
                }
                let layers = layers.into_iter().map(RawDescriptor::read).collect::<Result<_, _>>()?;
                Ok(Self::Manifest(Manifest { config: config.read()?, layers }))
            }
            (None, None, _) => {
                let shown: String = kind.chars().filter(|c| !c.is_control()).take(80).collect();
                Err(DocumentError::Unsupported(format!("it is neither an image nor a list of images ({shown:?})")))
            }
        }
    }
}

impl Descriptor {
    /// Returns why this cannot be a layer, if it cannot.
    pub(super) fn unfit_as_layer(&self) -> Option<&'static str> {
        let kind = self.media_type.as_str();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            return Some("it is a foreign layer, whose content is not in the registry");
        }
        if kind.contains("+encrypted") {
            return Some("it is encrypted");
        }
        let known = kind.starts_with("application/vnd.oci.image.layer.v1.tar")
            || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar");
        (!known).then_some("it is not an archive of files")
    }
}

impl RawDescriptor {
    /// Whether this is a statement about an image of the index rather than an image: buildx adds an attestation for
    /// each, cosign signatures and more, other tools artifacts of other types (image-spec 1.1).
    fn is_statement(&self) -> bool {
        let annotation = |key: &str| self.annotations.as_ref()?.get(key)?.as_deref();
        let unknown = |platform: &RawPlatform| platform.os == "unknown" && platform.architecture == "unknown";
        let of_cosign = |kind: &str| kind.starts_with("dev.cosignproject.cosign/") && !kind.ends_with("/image");
        // For an image, this is the media type of its configuration.
        let of_another_type = |kind: &str| !kind.is_empty() && !CONFIG_TYPES.contains(&kind);
        annotation("vnd.docker.reference.type") == Some("attestation-manifest")
            || annotation("kind").is_some_and(of_cosign)
            || self.artifact_type.as_deref().is_some_and(of_another_type)
            || self.platform.as_ref().is_some_and(unknown)
    }

    /// Fails if its digest cannot be verified.
    fn read(self) -> Result<Descriptor, DocumentError> {
        let digest = match self.digest {
            AnyDigest::Sha256(digest) => digest,
            AnyDigest::Other(algorithm) => {
                let why = format!("it has a {algorithm} digest, and only those of sha256 can be verified here");
                return Err(DocumentError::Unsupported(why));
            }
        };
        let mut annotations = self.annotations.unwrap_or_default();
        let mut short = |key: &str| annotations.remove(key).flatten().filter(|name| name.len() <= 512);
        let tag = short("org.opencontainers.image.ref.name");
        let name = short("io.containerd.image.name").or_else(|| tag.clone());
        Ok(Descriptor {
            media_type: self.media_type.chars().filter(|c| !c.is_control()).take(128).collect(),
            digest,
            size: self.size,
            // An empty platform is treated as none.
            platform: self
                .platform
                .map(|it| Platform::declared(&it.os, &it.architecture, it.variant.as_deref()))
                .filter(|platform| !platform.is_undeclared()),
            name,
            tag,
        })
    }
}

impl TryFrom<String> for AnyDigest {
    type Error = InvalidDigest;

    /// Reads a digest as the image specification writes it (`algorithm:encoded`).
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let is_word = |word: &str, more: &str| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
            (1..=128).contains(&word.len()) && word.chars().all(fits)
        };
        match text.split_once(':') {
            Some((algorithm, encoded))
                if algorithm != "sha256"
                    && is_word(algorithm, "+._-")
                    && is_word(&encoded.to_ascii_lowercase(), "=_-") =>
            {
                Ok(Self::Other(algorithm.to_owned()))
            }
            _ => text.parse().map(Self::Sha256),
        }
    }
}

impl ConfigFile {
    /// Parses a configuration.
    pub(super) fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        let raw: RawConfigFile = parse(json)?;
        if raw.rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(DocumentError::TooMany(raw.rootfs.diff_ids.len(), "layers", MAX_LAYERS));
        }
        let run = raw.config;
        let words = run.env.iter().chain(&run.entrypoint).chain(&run.cmd).chain([&run.working_dir, &run.user]);
        let bytes: usize = words.clone().map(|word| WORD_OVERHEAD + json!(word).to_string().len()).sum();
        if bytes > MAX_RUN_CONFIG {
            return Err(DocumentError::TooMany(bytes, "bytes of environment and commands", MAX_RUN_CONFIG));
        }
        if words.into_iter().any(|word| word.contains('\0')) {
            return Err(DocumentError::Unsupported("a word of its environment or command has a zero byte".into()));
        }
        let env = run.env.iter().filter_map(|line| line.split_once('='));
        Ok(Self {
            platform: Platform::declared(&raw.os, &raw.architecture, raw.variant.as_deref()),
            diff_ids: raw.rootfs.diff_ids,
            run: RunConfig {
                env: env.filter(|(key, _)| !key.is_empty()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                workdir: from_root(run.working_dir),
                user: Some(run.user).filter(|user| !user.is_empty()),
                entrypoint: run.entrypoint,
                cmd: run.cmd,
            },
        })
    }
}

/// Returns a working directory as an absolute path: a relative one begins at the root.
fn from_root(path: String) -> Option<String> {
    match path.as_str() {
        "" => None,
        absolute if absolute.starts_with('/') => Some(path),
        relative => Some(format!("/{relative}")),
    }
}

/// Returns the digest of a manifest, after comparing digest and length with those its reference or an index names.
pub(super) fn check_manifest(
    bytes: &[u8],
    digest: Option<Digest>,
    length: Option<u64>,
    of: &str,
) -> Result<Digest, OciError> {
    let (is, len) = (Digest::of(bytes), bytes.len() as u64);
    if let Some(should) = length.filter(|&should| should != len) {
        return Err(OciError::Size { what: "manifest", of: of.to_owned(), is: len, should });
    }
    match digest {
        Some(should) if should != is => Err(OciError::Digest { what: "manifest", of: of.to_owned(), is, should }),
        _ => Ok(is),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(json: &[u8]) -> Result<T, DocumentError> {
    if json.len() as u64 > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge);
    }
    Ok(serde_json::from_slice(json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(kind: &str) -> serde_json::Value {
        json!({"mediaType": kind, "digest": Digest::of(b"x").to_string(), "size": 1})
    }

    fn read(value: &serde_json::Value) -> Result<Document, DocumentError> {
        Document::parse(value.to_string().as_bytes(), None)
    }

    #[test]
    fn both_kinds_of_both_makers() {
        let mut arm = descriptor("application/vnd.oci.image.manifest.v1+json");
        arm["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "x"});
        let Document::Index(list) = read(&json!({"schemaVersion": 2, "manifests": [arm]})).unwrap() else { panic!() };
        assert_eq!(list[0].platform.as_ref().unwrap().to_string(), "linux/arm64/v8");
        let mut nowhere = descriptor("application/vnd.oci.image.manifest.v1+json");
        nowhere["platform"] = json!({"os": "linux"});
        let Document::Index(list) = read(&json!({"manifests": [nowhere]})).unwrap() else { panic!() };
        assert_eq!(list[0].platform, None, "a platform without a processor is none");
        let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let manifest = json!({"schemaVersion": 2, "config": descriptor(""), "layers": [descriptor(layer)]});
        let Document::Manifest(manifest) = read(&manifest).unwrap() else { panic!() };
        assert_eq!(manifest.layers[0].unfit_as_layer(), None);
    }

    #[test]
    fn what_cannot_be_verified_is_not_offered_and_is_no_image() {
        let by = |digest: &str| json!({"digest": digest, "size": 1});
        let (known, other) = (descriptor("x"), by(&format!("sha512:{}", "0f".repeat(64))));
        let Document::Index(list) = read(&json!({"manifests": [other, known]})).unwrap() else { panic!() };
        assert_eq!(list.iter().map(|one| one.digest).collect::<Vec<_>>(), [Digest::of(b"x")]);
        for (value, part) in [
            (json!({"manifests": [other]}), "a sha512 digest"),
            (json!({"config": other}), "a sha512 digest"),
            (json!({"config": known, "layers": [by("multihash+base58:Qm_-=1")]}), "a multihash+base58 digest"),
            (json!({"manifests": [known, by("sha256:0F")]}), "malformed"),
            (json!({"manifests": [known, by("sha512:../x")]}), "malformed"),
            (json!({"manifests": [known, by("sha 512:00")]}), "malformed"),
            (json!({"manifests": [known, by("sha512:")]}), "malformed"),
        ] {
            let error = read(&value).unwrap_err().to_string();
            assert!(error.contains(part), "{value}: {error}");
        }
    }

    #[test]
    fn hostile_documents() {
        for (value, part) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "first schema"),
            (json!({"manifests": [], "layers": []}), "at once"),
            (json!({"mediaType": "text/\u{1b}html"}), "neither"),
            (json!({"config": {"digest": "sha256:../x", "size": 1}}), "malformed"),
            (json!({"config": {"digest": Digest::of(b"").to_string(), "size": -1}}), "malformed"),
            (json!({"config": descriptor(""), "layers": vec![descriptor("x"); 4097]}), "4097 layers"),
            (json!({"manifests": vec![descriptor("x"); 1025]}), "1025 manifests"),
        ] {
            let error = read(&value).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(matches!(Document::parse(&vec![b' '; (4 << 20) + 1], None), Err(DocumentError::TooLarge)));
    }

    #[test]
    fn layers_that_are_none() {
        for (kind, unfit) in [
            ("application/vnd.oci.image.layer.v1.tar", false),
            ("application/vnd.oci.image.layer.v1.tar+zstd", false),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", true),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", true),
            ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", true),
            ("", true),
        ] {
            let Document::Manifest(manifest) =
                read(&json!({"config": descriptor(""), "layers": [descriptor(kind)]})).unwrap()
            else {
                panic!()
            };
            assert_eq!(manifest.layers[0].unfit_as_layer().is_some(), unfit, "{kind}");
        }
    }

    #[test]
    fn a_configuration_with_and_without_everything() {
        let text = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": null},
            "config": {"Env": ["A=b=c", "=x", "bad"], "WorkingDir": "rel", "User": "1:2", "Entrypoint": ["e"], "Cmd": null}});
        let config = ConfigFile::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(config.run.env, [("A".to_owned(), "b=c".to_owned())].into());
        assert_eq!((config.run.workdir.as_deref(), config.run.user.as_deref()), (Some("/rel"), Some("1:2")));
        assert_eq!((config.run.entrypoint.len(), config.run.cmd.len()), (1, 0));
        ConfigFile::parse(br#"{"rootfs": {}, "config": null}"#).unwrap();
        let word = ConfigFile::parse(br#"{"rootfs": {}, "config": {"Cmd": "/bin/sh", "Entrypoint": null}}"#).unwrap();
        assert_eq!((word.run.cmd, word.run.entrypoint), (vec!["/bin/sh".to_owned()], vec![]));
        let escaped = "\u{1}".repeat(MAX_RUN_CONFIG / 6);
        for many in
            [json!(["x".repeat(MAX_RUN_CONFIG)]), json!([escaped]), json!(vec![""; MAX_RUN_CONFIG / WORD_OVERHEAD])]
        {
            let text = json!({"rootfs": {}, "config": {"Cmd": many}}).to_string();
            let error = ConfigFile::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("bytes of environment and commands"), "{error}");
        }
        assert!(ConfigFile::parse(br#"{"rootfs": {}, "config": {"Cmd": ["a\u0000b"]}}"#).is_err());
    }
}
