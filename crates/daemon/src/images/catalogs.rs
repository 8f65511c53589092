//! Catalogs of kernels or images: those the configuration names, and the built-in one.
//!
//! A later catalog takes precedence over an earlier one, and all over the built-in one: a user who configures a catalog
//! means it. A catalog that cannot be read therefore hides those below it: a pull fails rather than take an entry that
//! the unreadable catalog might have replaced.

use super::off_thread;
use crate::{config::CatalogLocation, failures::because, operation::blocking};
use banger_artifacts::{
    catalog::{Catalog, CatalogError, Entry},
    fetch::Client,
    image,
    job::Silent,
    kernel,
};
use banger_proto::failure::{Code, Failure};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Name of the built-in catalog.
pub(super) const BUILT_IN: &str = "built-in";
/// How long a downloaded catalog stays fresh, so that shell completion does not ask a server at each key press.
const FRESH: Duration = Duration::from_secs(60);

/// All catalogs of kernels.
pub(super) type KernelOffers = Catalogs<kernel::CatalogEntry>;
/// All catalogs of images.
pub(super) type ImageOffers = Catalogs<image::CatalogEntry>;

/// All catalogs of one kind.
#[derive(Debug)]
pub(super) struct Catalogs<E> {
    locations: Vec<CatalogLocation>,
    built_in: Arc<Catalog<E>>,
    /// Last download of each catalog and its time, by position.
    downloaded: Mutex<Vec<Option<Downloaded<E>>>>,
}

/// Downloaded catalog and when it arrived.
type Downloaded<E> = (Instant, Arc<Catalog<E>>);

/// State of all catalogs at one moment, by location, highest precedence first.
pub(super) type Snapshot<E> = Vec<(String, Result<Arc<Catalog<E>>, Failure>)>;

impl KernelOffers {
    pub(super) fn new(locations: Vec<CatalogLocation>) -> Self {
        Self::over(kernel::Catalog::builtin(), locations)
    }
}

impl ImageOffers {
    pub(super) fn new(locations: Vec<CatalogLocation>) -> Self {
        Self::over(image::Catalog::builtin(), locations)
    }
}

impl<E: Entry + Clone + Send + Sync + 'static> Catalogs<E> {
    fn over(built_in: Catalog<E>, locations: Vec<CatalogLocation>) -> Self {
        let downloaded = Mutex::new(vec![None; locations.len()]);
        Self { locations, built_in: Arc::new(built_in), downloaded }
    }

    /// Finds the entry `name` for this host's processor. Fails when a catalog of higher precedence than the entry's
    /// cannot be read; those of lower precedence are not asked.
    pub(super) async fn find(&self, name: &E::Name) -> Result<Option<E>, Failure> {
        for (number, location) in self.locations.iter().enumerate().rev() {
            if let Some(entry) = self.read_one(number, location).await?.here(name) {
                return Ok(Some(entry.clone()));
            }
        }
        Ok(self.built_in.here(name).cloned())
    }

    /// Reads all catalogs: files anew, downloads when the last one is no longer fresh.
    pub(super) async fn read(&self) -> Snapshot<E> {
        let mut snapshot = Vec::with_capacity(self.locations.len() + 1);
        for (number, location) in self.locations.iter().enumerate().rev() {
            snapshot.push((location.to_string(), self.read_one(number, location).await));
        }
        snapshot.push((BUILT_IN.to_owned(), Ok(Arc::clone(&self.built_in))));
        snapshot
    }

    /// Returns what is available without asking a server; downloads count whatever their age.
    pub(super) async fn at_hand(&self) -> Snapshot<E> {
        let mut snapshot = Vec::with_capacity(self.locations.len() + 1);
        for (number, location) in self.locations.iter().enumerate().rev() {
            let here = match location {
                CatalogLocation::Path(_) => self.read_one(number, location).await.ok(),
                CatalogLocation::Url(_) => {
                    let downloaded = self.downloaded.try_lock().ok();
                    downloaded.and_then(|downloaded| Some(Arc::clone(&downloaded[number].as_ref()?.1)))
                }
            };
            snapshot.extend(here.map(|catalog| (location.to_string(), Ok(catalog))));
        }
        snapshot.push((BUILT_IN.to_owned(), Ok(Arc::clone(&self.built_in))));
        snapshot
    }

    async fn read_one(&self, number: usize, location: &CatalogLocation) -> Result<Arc<Catalog<E>>, Failure> {
        let read = match location.clone() {
            CatalogLocation::Path(path) => off_thread(move || Catalog::read(&path)).await.map(Arc::new),
            CatalogLocation::Url(address) => {
                // Concurrent callers share one download.
                let mut downloaded = self.downloaded.lock().await;
                if let Some((when, catalog)) = &downloaded[number]
                    && when.elapsed() < FRESH
                {
                    return Ok(Arc::clone(catalog));
                }
                // The download stops when no caller waits for it any more.
                let (silent, stop) = (Arc::new(Silent), CancellationToken::new());
                let got = blocking(silent, &stop, move |job| Catalog::download(&address, &patience(), &job));
                got.await.map(|catalog| {
                    let catalog = Arc::new(catalog);
                    downloaded[number] = Some((Instant::now(), Arc::clone(&catalog)));
                    catalog
                })
            }
        };
        read.map_err(|error| unreadable::<E>(location, &error))
    }
}

/// Client with short timeouts: a caller waits for the answer and has no progress to watch.
fn patience() -> Client {
    let second = Duration::from_secs(1);
    Client { connect: 5 * second, stall: 10 * second, pauses: vec![second / 4], ..Client::default() }
}

fn unreadable<E: Entry>(location: &CatalogLocation, error: &CatalogError<E::Refusal>) -> Failure {
    let code = match error {
        CatalogError::Io { .. } | CatalogError::Fetch { .. } => Code::Unavailable,
        _ => Code::Invalid,
    };
    let of = E::OF;
    because(code, format!("the {of} catalog {location} cannot be used"), error)
        .hint(format!("[[{of}_catalog]] in config.toml names it; `banger config show` shows the value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_later_catalog_goes_before_and_one_that_cannot_be_read_hides() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = |file: &str, reference: &str| {
            let path = dir.path().join(file);
            let json = serde_json::json!({"version": 1, "entries": [{"name": "mine", "arch": std::env::consts::ARCH,
                "description": reference, "sources": [{"type": "oci", "ref": reference}]}]});
            std::fs::write(&path, json.to_string()).unwrap();
            CatalogLocation::Path(path)
        };
        let (a, b) = (catalog("a", "first"), catalog("b", "second"));
        let (mine, debian) = ("mine".parse().unwrap(), "debian-bookworm".parse().unwrap());
        let offers = ImageOffers::new(vec![a, b.clone()]);
        assert_eq!(offers.find(&mine).await.unwrap().unwrap().description, "second");
        assert!(offers.find(&debian).await.unwrap().is_some());
        assert!(offers.find(&"none".parse().unwrap()).await.unwrap().is_none());
        let gone = CatalogLocation::Path(dir.path().join("gone"));
        let offers = ImageOffers::new(vec![gone, b]);
        assert_eq!(offers.find(&mine).await.unwrap().unwrap().description, "second");
        assert_eq!(offers.find(&debian).await.unwrap_err().code, Code::Unavailable);
    }
}
