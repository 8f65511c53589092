//! Catalogs of images.
//!
//! A source this banger cannot use does not invalidate its entry: it is kept with the reason, so that a pull that finds
//! no other source can report it.

use super::{BundleSource, DebianError, DebianRecipe, ExternalFile, OciSource, PromotedFile};
use crate::{
    catalog,
    oci::{ImageSource, Platform, Reference},
};
use banger_proto::name::{ImageName, InvalidName, KernelName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most sources of one entry.
const MAX_SOURCES: usize = 16;

/// Images by name.
pub type Catalog = catalog::Catalog<CatalogEntry>;
/// Why a catalog of images is refused.
pub type CatalogError = catalog::CatalogError<EntryError>;

/// One image that can be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Its name.
    pub name: ImageName,
    /// Description for a person.
    pub description: String,
    /// Architecture, as printed by `uname -m`.
    pub arch: String,
    /// Recommended kernel.
    pub kernel: Option<KernelName>,
    /// Whether the user who pulls it chose that kernel, rather than the catalog.
    pub kernel_chosen: bool,
    /// Sources, best first; one that cannot be used is kept as the reason.
    pub sources: Vec<Result<Source, SourceError>>,
}

impl CatalogEntry {
    /// Whether an image from `source` is what this entry offers now: the same bundle, recipe or digest. A tag may have
    /// moved; only its registry knows.
    pub(super) fn gives(&self, source: &Source) -> bool {
        self.sources.iter().flatten().any(|offered| match (offered, source) {
            (Source::Bundle(offered), from) => offered.is(from),
            (Source::Mmdebstrap(offered), Source::Mmdebstrap(recipe)) => offered == recipe,
            (Source::Oci(offered), Source::Oci(image)) => {
                let platform = offered.platform.clone().unwrap_or_else(Platform::host);
                let pinned = offered.reference.parse::<Reference>().ok().filter(|it| it.digest().is_some());
                pinned.is_some_and(|pinned| pinned.to_string() == image.reference)
                    && image.platform.as_ref().is_some_and(|is| is.serves(&platform) > 0)
            }
            _ => false,
        })
    }
}

/// Source of an image, offered or used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Source {
    /// Built here from the host's own Debian sources.
    Mmdebstrap(DebianRecipe),
    /// A file of the user's, used in place. Never in a catalog.
    Registered(ExternalFile),
    /// A copy of a file of the user's. Never in a catalog.
    Promoted(PromotedFile),
    /// A published bundle.
    Bundle(BundleSource),
    /// An OCI image from a registry or an archive file.
    Oci(OciSource),
}

impl Source {
    /// Whether the same image can be obtained again, independent of anything on this host: a lost image can be pulled
    /// again.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Self::Bundle(_) => true,
            Self::Oci(from) => matches!(from.reference.parse(), Ok(ImageSource::Registry(_))),
            Self::Mmdebstrap(_) | Self::Registered(_) | Self::Promoted(_) => false,
        }
    }

    /// Formats the source with the digest, where it is known: a tag may move.
    pub(super) fn pinned(&self) -> String {
        match self {
            Self::Oci(OciSource { reference, digest: Some(digest), .. }) if !reference.contains('@') => {
                format!("{reference}@{digest}")
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmdebstrap(recipe) => write!(f, "mmdebstrap {}", recipe.suite),
            Self::Registered(file) => write!(f, "file {}", file.path.to_string_lossy().escape_debug()),
            Self::Promoted(file) => write!(f, "copy of {}", file.path.to_string_lossy().escape_debug()),
            Self::Bundle(source) => f.write_str(&source.url),
            Self::Oci(source) => f.write_str(&source.reference),
        }
    }
}

/// Why a source cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The type is unknown.
    #[error("this version of banger has no use for a source of type {0:?}")]
    Type(String),
    /// The source is malformed.
    #[error("it is not a source of type {kind:?}: {why}")]
    Malformed {
        /// The type.
        kind: String,
        /// Cause.
        why: String,
    },
}

/// Error of an entry that is refused, and its catalog with it.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A name is invalid.
    #[error("the catalog has a bad entry")]
    Name(#[from] InvalidName),
    /// No source, or too many.
    #[error("entry {name} of the catalog has {count} sources, not 1 to {MAX_SOURCES}")]
    Sources {
        /// The entry.
        name: ImageName,
        /// Number of them.
        count: usize,
    },
}

#[derive(Deserialize)]
struct RawEntry {
    name: String,
    #[serde(default)]
    description: String,
    arch: String,
    kernel: Option<String>,
    sources: Vec<serde_json::Value>,
}

impl Catalog {
    /// The catalog this banger was built with.
    pub fn builtin() -> Self {
        Self::parse(include_bytes!("../../catalogs/images.json")).expect("a test reads the built-in catalog")
    }
}

impl catalog::Entry for CatalogEntry {
    const OF: &'static str = "image";
    type Name = ImageName;
    type Refusal = EntryError;

    fn all(json: &[u8]) -> Result<Vec<Self>, CatalogError> {
        catalog::raw::<RawEntry>(json)?.into_iter().map(|raw| raw.checked().map_err(CatalogError::Entry)).collect()
    }

    fn name(&self) -> &ImageName {
        &self.name
    }

    fn arch(&self) -> &str {
        &self.arch
    }
}

impl RawEntry {
    fn checked(self) -> Result<CatalogEntry, EntryError> {
        let name: ImageName = self.name.parse()?;
        if !(1..=MAX_SOURCES).contains(&self.sources.len()) {
            return Err(EntryError::Sources { name, count: self.sources.len() });
        }
        Ok(CatalogEntry {
            name,
            description: self.description,
            arch: self.arch,
            kernel: self.kernel.map(|kernel| kernel.parse()).transpose()?,
            kernel_chosen: false,
            sources: self.sources.into_iter().map(source).collect(),
        })
    }
}

fn source(value: serde_json::Value) -> Result<Source, SourceError> {
    let kind: String = value.get("type").and_then(|kind| kind.as_str()).unwrap_or_default().chars().take(40).collect();
    if !["mmdebstrap", "oci", "bundle"].contains(&kind.as_str()) {
        return Err(SourceError::Type(kind));
    }
    let malformed = |why: String| SourceError::Malformed { kind: kind.clone(), why };
    let source: Source = serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
    match &source {
        Source::Mmdebstrap(recipe) => recipe.check().map_err(|error: DebianError| malformed(error.to_string()))?,
        // A file path in a catalog would be one of another host.
        Source::Oci(oci) => {
            oci.reference.parse::<Reference>().map_err(|error| malformed(error.to_string()))?;
            if let Some(other) = oci.platform.as_ref().filter(|platform| platform.os != Platform::host().os) {
                return Err(malformed(format!("a VM runs Linux, and no image for {other}")));
            }
        }
        Source::Bundle(bundle) => bundle.check().map_err(malformed)?,
        Source::Registered(_) | Source::Promoted(_) => {}
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(entries: &Value) -> Result<Catalog, CatalogError> {
        Catalog::parse(json!({"version": 1, "entries": entries}).to_string().as_bytes())
    }

    fn entry(sources: &Value) -> Value {
        json!({"name": "debian", "arch": "x86_64", "sources": sources, "added-later": true})
    }

    #[test]
    fn the_built_in_catalog_has_the_default_image() {
        let catalog = Catalog::builtin();
        let entry = catalog.entries().iter().find(|entry| entry.name.as_str() == "debian-bookworm").unwrap();
        let recipe = entry.sources.iter().find_map(|source| match source {
            Ok(Source::Mmdebstrap(recipe)) => Some(recipe),
            _ => None,
        });
        let recipe = recipe.unwrap();
        for package in
            ["systemd-sysv", "openssh-server", "docker.io", "git", "curl", "jq", "iproute2", "ca-certificates"]
        {
            assert!(recipe.include.iter().any(|name| name == package), "{package}");
        }
        assert!(entry.sources.iter().all(Result::is_ok) && entry.kernel.is_some());
    }

    #[test]
    fn what_cannot_be_used_keeps_its_reason() {
        let sources = json!([
            {"type": "teleport", "url": "x"},
            {"type": "mmdebstrap", "suite": "-x"},
            {"type": "mmdebstrap"},
            {"type": "mmdebstrap", "suite": "bookworm"},
            17,
            {"type": "oci", "ref": "debian:12"},
            {"type": "oci", "ref": "oci-archive:/etc/passwd"},
            {"type": "bundle", "url": "https://x.example/a.tar.zst", "sha256": "0".repeat(64), "size": 1},
            {"type": "bundle", "url": "http://x.example/a.tar.zst", "sha256": "0".repeat(64), "size": 1},
            {"type": "bundle", "url": "https://x.example/a.tar.zst", "sha256": "0", "size": 1},
            {"type": "oci", "ref": "debian:12", "platform": "windows/amd64"}
        ]);
        let catalog = parse(&json!([entry(&sources)])).unwrap();
        let sources = &catalog.entries()[0].sources;
        assert_eq!(sources[0], Err(SourceError::Type("teleport".into())));
        assert!(sources[1].as_ref().unwrap_err().to_string().contains("invalid suite"), "{:?}", sources[1]);
        assert!(matches!(sources[2], Err(SourceError::Malformed { .. })));
        assert!(sources[3].is_ok());
        assert!(matches!(sources[4], Err(SourceError::Type(_))));
        assert!(sources[5].is_ok());
        assert!(sources[7].is_ok());
        for bad in [6, 8, 9, 10] {
            assert!(matches!(sources[bad], Err(SourceError::Malformed { .. })), "{:?}", sources[bad]);
        }
    }

    #[test]
    fn bad_catalogs() {
        let one = json!([{"type": "mmdebstrap", "suite": "bookworm"}]);
        assert!(matches!(parse(&json!([entry(&one), entry(&one)])), Err(CatalogError::Duplicate(_))));
        let refused = |entries: &Value| match parse(entries) {
            Err(CatalogError::Entry(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        assert!(matches!(refused(&json!([entry(&json!([]))])), EntryError::Sources { count: 0, .. }));
        assert!(matches!(refused(&json!([{"name": "../x", "arch": "x", "sources": [1]}])), EntryError::Name(_)));
    }
}
