//! The list of kernels that can be had by name.
//!
//! One is compiled in; others have the same schema. A source this banger cannot use does not spoil its entry: it is
//! kept with the reason, so that the error of a pull that finds no other source can say it.

mod entry;

use super::bundle::Bundle;
use crate::{
    fetch::{Address, AddressError, Client, FetchError},
    job::Job,
};
use banger_proto::name::{InvalidName, KernelName};
use entry::RawEntry;
use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

pub(super) use entry::is_package;

/// Largest catalog read.
pub(super) const MAX_CATALOG: usize = 1 << 20;
/// The schema this banger reads.
const VERSION: u32 = 1;

/// Kernels by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    entries: Vec<CatalogEntry>,
}

/// One kernel that can be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// `<family>-<major.minor>`.
    pub name: KernelName,
    /// Who makes it.
    pub distro: String,
    /// The processor, as `uname -m` says it.
    pub arch: String,
    /// The version, as far as the name promises one.
    pub kernel_version: String,
    /// For a person choosing.
    pub description: String,
    /// Where it can be had, best first.
    pub sources: Vec<Source>,
}

/// Where a kernel can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A distribution's package, through the host's own apt.
    Apt {
        /// A package with a kernel, or one that depends on it.
        package: String,
        /// `major.minor` it has to be.
        kernel: String,
    },
    /// A file on a web server.
    Bundle(Bundle),
    /// Not for this banger.
    Unusable(SourceError),
}

/// Why a source cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this version of banger has no use for a source of type {kind:?}")]
pub struct SourceError {
    /// The source's type, cut.
    pub kind: String,
}

/// Why a catalog is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Larger than any catalog.
    #[error("the kernel catalog is larger than {} KiB", MAX_CATALOG >> 10)]
    TooLarge,
    /// Not the JSON it should be.
    #[error("the kernel catalog is malformed")]
    Json(#[from] serde_json::Error),
    /// A schema of another time.
    #[error("the kernel catalog has version {0}, not {VERSION}")]
    Version(u32),
    /// A name that is none.
    #[error("the kernel catalog has a bad entry")]
    Name(#[from] InvalidName),
    /// An entry that makes no sense.
    #[error("entry {name} of the kernel catalog has a bad {field}: {value:?}")]
    Value {
        /// The entry.
        name: KernelName,
        /// The field.
        field: &'static str,
        /// The value, cut.
        value: String,
    },
    /// An address that is never asked.
    #[error("entry {name} of the kernel catalog has an unusable url {url:?}")]
    Url {
        /// The entry.
        name: KernelName,
        /// The address, cut.
        url: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// Two entries for one name and processor.
    #[error("the kernel catalog has {0} twice")]
    Duplicate(KernelName),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be downloaded.
    #[error("cannot download {address}")]
    Fetch {
        /// From where.
        address: Address,
        /// What is wrong.
        source: FetchError,
    },
}

#[derive(Deserialize)]
struct RawVersion {
    version: u32,
}

#[derive(Deserialize)]
struct RawCatalog {
    entries: Vec<RawEntry>,
}

impl Catalog {
    /// The catalog this banger was built with.
    pub fn builtin() -> Self {
        Self::parse(include_bytes!("../../catalogs/kernels.json")).expect("a test reads the built-in catalog")
    }

    /// Reads a catalog.
    pub fn parse(json: &[u8]) -> Result<Self, CatalogError> {
        if json.len() > MAX_CATALOG {
            return Err(CatalogError::TooLarge);
        }
        // The version first: another one may mean another shape.
        let RawVersion { version } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(CatalogError::Version(version));
        }
        let raw: RawCatalog = serde_json::from_slice(json)?;
        let mut seen = HashSet::new();
        let mut entries = Vec::with_capacity(raw.entries.len());
        for entry in raw.entries {
            let entry = entry.checked()?;
            if !seen.insert((entry.name.clone(), entry.arch.clone())) {
                return Err(CatalogError::Duplicate(entry.name));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The catalog in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, CatalogError> {
        let mut json = Vec::new();
        let read = regular(path).and_then(|file| file.take(MAX_CATALOG as u64 + 1).read_to_end(&mut json));
        read.map_err(|source| CatalogError::Io { path: path.to_owned(), source })?;
        Self::parse(&json)
    }

    /// The catalog at `address`.
    pub fn download(address: &Address, client: &Client, job: &Job<'_>) -> Result<Self, CatalogError> {
        let json = client.read(address, MAX_CATALOG as u64, job);
        Self::parse(&json.map_err(|source| CatalogError::Fetch { address: address.clone(), source })?)
    }

    /// Adds the entries of `other`. One with the name and processor of an entry that is here takes its place: who names
    /// a further catalog means it.
    pub fn extend(&mut self, other: Self) {
        for entry in other.entries {
            match self.entries.iter_mut().find(|here| here.name == entry.name && here.arch == entry.arch) {
                Some(here) => *here = entry,
                None => self.entries.push(entry),
            }
        }
    }

    /// All entries, in the catalog's order.
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// The entry `name` for the processor `arch`.
    pub fn find(&self, name: &KernelName, arch: &str) -> Option<&CatalogEntry> {
        self.entries.iter().find(|entry| entry.name == *name && entry.arch == arch)
    }
}

impl FromIterator<CatalogEntry> for Catalog {
    /// Entries that were read from catalogs before; a later one takes the place of one of the same name and processor.
    fn from_iter<I: IntoIterator<Item = CatalogEntry>>(entries: I) -> Self {
        let mut catalog = Self { entries: Vec::new() };
        catalog.extend(Self { entries: entries.into_iter().collect() });
        catalog
    }
}

impl CatalogEntry {
    /// The bundle that would be downloaded first, if one of the sources is one.
    pub fn bundle(&self) -> Option<&Bundle> {
        self.sources.iter().find_map(|source| match source {
            Source::Bundle(bundle) => Some(bundle),
            Source::Apt { .. } | Source::Unusable(_) => None,
        })
    }
}

/// Opens a file that is one: a fifo would have its reader wait for ever.
fn regular(path: &Path) -> io::Result<File> {
    let file: File = open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?.into();
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry() -> Value {
        json!({"name": "debian-6.1", "distro": "debian", "arch": "x86_64", "kernel_version": "6.1", "description": "x",
               "sources": [{"type": "apt", "package": "linux-image-cloud-amd64", "kernel": "6.1"}]})
    }

    fn parse(entries: &[Value]) -> Result<Catalog, CatalogError> {
        Catalog::parse(&serde_json::to_vec(&json!({"version": 1, "entries": entries})).unwrap())
    }

    #[test]
    fn the_built_in_catalog_is_sound() {
        let catalog = Catalog::builtin();
        let debian = catalog.find(&"debian-6.1".parse().unwrap(), "x86_64").unwrap();
        assert_eq!(debian.sources, [Source::Apt { package: "linux-image-cloud-amd64".into(), kernel: "6.1".into() }]);
        assert!(catalog.find(&"debian-6.1".parse().unwrap(), "riscv64").is_none());
        assert!(catalog.find(&"debian-6.2".parse().unwrap(), "x86_64").is_none());
    }

    #[test]
    fn an_unknown_source_is_kept_with_its_reason() {
        let mut with_unknown = entry();
        with_unknown["sources"] = json!([{"type": "carrier-pigeon", "ring": 7}, {"type": "apt", "package": "linux-image-x", "kernel": "6.1"}]);
        with_unknown["logo"] = json!("penguin");
        let catalog = parse(&[with_unknown]).unwrap();
        let [Source::Unusable(reason), Source::Apt { .. }] = &catalog.entries()[0].sources[..] else {
            panic!("{catalog:?}")
        };
        assert!(reason.to_string().contains("\"carrier-pigeon\""));
    }

    #[test]
    fn bad_entries_are_refused_with_their_field() {
        for (pointer, value) in [
            ("/name", json!("../etc")),
            ("/name", json!("debian")),
            ("/name", json!("debian-6")),
            ("/name", json!("debian-6.x")),
            ("/distro", json!("")),
            ("/arch", json!("x 86")),
            ("/kernel_version", json!("6.1\n")),
            ("/description", json!("\u{1b}[31m")),
            ("/sources", json!([])),
            ("/sources/0/package", json!("-o")),
            ("/sources/0/package", json!("a b")),
            ("/sources/0/package", json!("")),
            ("/sources/0/kernel", json!("6")),
            ("/sources/0/kernel", json!("6.1.5")),
        ] {
            let mut bad = entry();
            *bad.pointer_mut(pointer).unwrap() = value;
            assert!(parse(&[bad.clone()]).is_err(), "{bad}");
        }
        assert!(matches!(parse(&[entry(), entry()]), Err(CatalogError::Duplicate(_))));
        let mut other = entry();
        other["arch"] = json!("aarch64");
        assert!(parse(&[entry(), other]).is_ok());
    }

    #[test]
    fn size_shape_and_version_are_checked() {
        assert!(matches!(Catalog::parse(&vec![b' '; MAX_CATALOG + 1]), Err(CatalogError::TooLarge)));
        assert!(matches!(Catalog::parse(b"[]"), Err(CatalogError::Json(_))));
        assert!(matches!(Catalog::parse(br#"{"version":2,"kernels":{}}"#), Err(CatalogError::Version(2))));
    }
}
