//! Lists of what can be had by name: one is compiled in, others have the same schema and lie in files or on servers.
//!
//! Decides how much of one is read, from what, in which version, and that a name stands in it once. What an entry says is
//! for [`crate::kernel`] and [`crate::image`] to know.

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

/// What stands in a catalog.
pub trait Entry: Sized {
    /// What it is an entry of: `kernel`.
    const OF: &'static str;
    /// What it is called.
    type Name: Clone + Debug + Display + Eq + Hash;
    /// Why one is refused.
    type Refusal: Error + Send + Sync + 'static;

    /// All of a catalog of this banger's version.
    fn all(json: &[u8]) -> Result<Vec<Self>, CatalogError<Self::Refusal>>;

    /// By what it is asked for.
    fn name(&self) -> &Self::Name;

    /// The processor, as `uname -m` says it.
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
    /// A schema of another time.
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

/// A list of what can be had by name.
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

    /// The catalog in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, CatalogError<E::Refusal>> {
        let mut json = Vec::new();
        let read = regular(path).and_then(|file| file.take(MAX_CATALOG as u64 + 1).read_to_end(&mut json));
        read.map_err(|source| CatalogError::Io { path: path.to_owned(), source })?;
        Self::parse(&json)
    }

    /// The catalog at `address`.
    pub fn download(address: &Address, client: &Client, job: &Job<'_>) -> Result<Self, CatalogError<E::Refusal>> {
        let json = client.read(address, MAX_CATALOG as u64, job);
        Self::parse(&json.map_err(|source| CatalogError::Fetch { address: address.clone(), source })?)
    }

    /// Adds the entries of `other`. One with the name and processor of an entry that is here takes its place: who names
    /// a further catalog means it.
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
    /// Entries that were read from catalogs before; a later one takes the place of one of the same name and processor.
    fn from_iter<I: IntoIterator<Item = E>>(entries: I) -> Self {
        let mut catalog = Self { entries: Vec::new() };
        catalog.extend(Self { entries: entries.into_iter().collect() });
        catalog
    }
}

/// The entries of a catalog as they stand there.
pub(crate) fn raw<R: DeserializeOwned>(json: &[u8]) -> Result<Vec<R>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(bound = "R: DeserializeOwned")]
    struct Raw<R> {
        entries: Vec<R>,
    }
    Ok(serde_json::from_slice::<Raw<R>>(json)?.entries)
}

/// Opens a file that is one: a fifo would have its reader wait for ever.
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
