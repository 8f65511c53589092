//! Catalogs: lists of kernels or images that can be pulled by name. One is compiled in; others have the same schema and
//! are read from files or servers.
//!
//! Decides how much of a catalog is read, from which kinds of file, in which version, and that every name occurs once.
//! The meaning of an entry belongs to [`crate::kernel`] and [`crate::image`].

use crate::{
    fetch::{Address, Client, FetchError},
    job::Job,
};
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    error::Error,
    fmt::{Debug, Display},
    fs::File,
    hash::Hash,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Largest catalog read, in bytes.
pub const MAX_CATALOG: usize = 1 << 20;
/// The schema this banger reads.
const VERSION: u32 = 1;

/// Entry of a catalog.
pub trait Entry: Sized {
    /// Noun for error messages: `kernel`.
    const OF: &'static str;
    /// Type of the entry's name.
    type Name: Clone + Debug + Display + Eq + Hash;
    /// Error of an entry that is refused.
    type Refusal: Error + Send + Sync + 'static;

    /// Parses all entries of a catalog in this banger's version.
    fn all(json: &[u8]) -> Result<Vec<Self>, CatalogError<Self::Refusal>>;

    /// Name the entry is requested by.
    fn name(&self) -> &Self::Name;

    /// Architecture, as printed by `uname -m`.
    fn arch(&self) -> &str;
}

/// Why a catalog is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError<R: Error + 'static> {
    /// Larger than any catalog.
    #[error("the catalog is larger than {} KiB", MAX_CATALOG >> 10)]
    TooLarge,
    /// Not the JSON it should be.
    #[error("the catalog is malformed")]
    Json(#[from] serde_json::Error),
    /// The schema version is not supported.
    #[error("the catalog has version {0}, not {VERSION}")]
    Version(u32),
    /// An entry that makes no sense.
    #[error(transparent)]
    Entry(R),
    /// Two entries for one name and processor.
    #[error("the catalog has {0} twice")]
    Duplicate(String),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// It could not be downloaded.
    #[error("cannot download {address}")]
    Fetch {
        /// Address asked.
        address: Address,
        /// Cause.
        source: FetchError,
    },
}

/// Entries that can be pulled by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog<E> {
    entries: Vec<E>,
}

impl<E: Entry> Catalog<E> {
    /// Reads a catalog.
    pub fn parse(json: &[u8]) -> Result<Self, CatalogError<E::Refusal>> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if json.len() > MAX_CATALOG {
            return Err(CatalogError::TooLarge);
        }
        // The version first: another one may mean another shape.
        let Version { version } = serde_json::from_slice(json)?;
        if version != VERSION {
            return Err(CatalogError::Version(version));
        }
        let entries = E::all(json)?;
        let mut seen = HashSet::new();
        for entry in &entries {
            if !seen.insert((entry.name(), entry.arch())) {
                return Err(CatalogError::Duplicate(entry.name().to_string()));
            }
        }
        Ok(Self { entries })
    }

    /// Reads the catalog in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, CatalogError<E::Refusal>> {
        let mut json = Vec::new();
        let read = regular(path).and_then(|file| file.take(MAX_CATALOG as u64 + 1).read_to_end(&mut json));
        read.map_err(|source| CatalogError::Io { path: path.to_owned(), source })?;
        Self::parse(&json)
    }

    /// Downloads the catalog at `address`.
    pub fn download(address: &Address, client: &Client, job: &Job<'_>) -> Result<Self, CatalogError<E::Refusal>> {
        let json = client.read(address, MAX_CATALOG as u64, job);
        Self::parse(&json.map_err(|source| CatalogError::Fetch { address: address.clone(), source })?)
    }

    /// Adds the entries of `other`. An entry with the same name and processor replaces the one that is here: whoever
    /// configures another catalog wants it to win.
    pub fn extend(&mut self, other: Self) {
        for entry in other.entries {
            match self.entries.iter_mut().find(|here| here.name() == entry.name() && here.arch() == entry.arch()) {
                Some(here) => *here = entry,
                None => self.entries.push(entry),
            }
        }
    }

    /// All entries, in the catalog's order.
    pub fn entries(&self) -> &[E] {
        &self.entries
    }

    /// The entry `name` for the processor `arch`.
    pub fn find(&self, name: &E::Name, arch: &str) -> Option<&E> {
        self.entries.iter().find(|entry| entry.name() == name && entry.arch() == arch)
    }

    /// The entry `name` for this host's processor.
    pub fn here(&self, name: &E::Name) -> Option<&E> {
        self.find(name, std::env::consts::ARCH)
    }
}

impl<E: Entry> FromIterator<E> for Catalog<E> {
    /// Collects entries read from several catalogs; a later one replaces an earlier one of the same name and processor.
    fn from_iter<I: IntoIterator<Item = E>>(entries: I) -> Self {
        let mut catalog = Self { entries: Vec::new() };
        catalog.extend(Self { entries: entries.into_iter().collect() });
        catalog
    }
}

/// Parses the entries of a catalog without interpreting them.
pub(crate) fn raw<R: DeserializeOwned>(json: &[u8]) -> Result<Vec<R>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(bound = "R: DeserializeOwned")]
    struct Raw<R> {
        entries: Vec<R>,
    }
    Ok(serde_json::from_slice::<Raw<R>>(json)?.entries)
}

/// Opens a regular file and refuses anything else: reading a fifo could block forever.
fn regular(path: &Path) -> io::Result<File> {
    let file: File = open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?.into();
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image, kernel};

    #[test]
    fn size_shape_and_version_are_checked() {
        fn check<E: Entry + Debug>() {
            let parse = Catalog::<E>::parse;
            assert!(matches!(parse(&vec![b' '; MAX_CATALOG + 1]), Err(CatalogError::TooLarge)));
            assert!(matches!(parse(b"[]"), Err(CatalogError::Json(_))));
            assert!(matches!(parse(br#"{"version":2,"kernels":{}}"#), Err(CatalogError::Version(2))));
            assert!(matches!(parse(br#"{"version":1,"entries":7}"#), Err(CatalogError::Json(_))));
            assert_eq!(parse(br#"{"version":1,"entries":[]}"#).unwrap().entries().len(), 0);
        }
        check::<kernel::CatalogEntry>();
        check::<image::CatalogEntry>();
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        fn check<E: Entry + Debug>(path: &Path) {
            let refused = Catalog::<E>::read(path).unwrap_err();
            let CatalogError::Io { source, .. } = refused else { panic!("{refused:?}") };
            assert!(source.to_string().contains("not a regular file"), "{source}");
        }
        let temp = tempfile::tempdir().unwrap();
        let fifo = temp.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [fifo.as_path(), temp.path(), Path::new("/dev/zero")] {
            check::<kernel::CatalogEntry>(path);
            check::<image::CatalogEntry>(path);
        }
    }
}
