//! What kernels can be had by name: the built-in catalog and those the configuration names.
//!
//! A later catalog goes before an earlier one, and all go before the built-in one: who names a catalog means it. So a
//! catalog that cannot be read hides what lies under it. A pull fails then, rather than take an entry that the
//! unreadable catalog might have replaced; a listing shows what there is and says what is missing.

use super::off_thread;
use crate::{config::CatalogPlace, failures::because, operation::blocking};
use banger_artifacts::{
    fetch::Client,
    job::Silent,
    kernel::{Catalog, CatalogEntry, CatalogError},
};
use banger_proto::{
    api::artifact::KernelCatalog,
    failure::{Code, Failure},
    name::KernelName,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// What the catalog in the program is called.
const BUILT_IN: &str = "built-in";
/// How long a downloaded catalog is good for: a key press of shell completion asks no server.
const FRESH: Duration = Duration::from_secs(60);

/// All catalogs of kernels.
#[derive(Debug)]
pub(super) struct KernelOffers {
    places: Vec<CatalogPlace>,
    built_in: Arc<Catalog>,
    /// By position, what was last downloaded and when.
    downloaded: Mutex<Vec<Option<Downloaded>>>,
}

/// A catalog and when it came.
type Downloaded = (Instant, Arc<Catalog>);

/// What the catalogs say at one moment, the one that decides first.
#[derive(Debug)]
pub(super) struct Offers(Vec<(String, Result<Arc<Catalog>, Failure>)>);

/// An entry and the catalog it stands in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) place: &'a str,
    pub(super) entry: &'a CatalogEntry,
}

impl KernelOffers {
    pub(super) fn new(places: Vec<CatalogPlace>) -> Self {
        let downloaded = Mutex::new(vec![None; places.len()]);
        Self { places, built_in: Arc::new(Catalog::builtin()), downloaded }
    }

    /// Reads all catalogs: files anew, downloads when what is here is not fresh.
    pub(super) async fn read(&self) -> Offers {
        let mut offers = Vec::with_capacity(self.places.len() + 1);
        for (number, place) in self.places.iter().enumerate().rev() {
            offers.push((place.to_string(), self.read_one(number, place).await));
        }
        offers.push((BUILT_IN.to_owned(), Ok(Arc::clone(&self.built_in))));
        Offers(offers)
    }

    /// What can be said without asking a server: a download counts however old it is.
    pub(super) async fn at_hand(&self) -> Offers {
        let mut offers = Vec::with_capacity(self.places.len() + 1);
        for (number, place) in self.places.iter().enumerate().rev() {
            let here = match place {
                CatalogPlace::Path(_) => self.read_one(number, place).await.ok(),
                CatalogPlace::Url(_) => {
                    let downloaded = self.downloaded.try_lock().ok();
                    downloaded.and_then(|downloaded| Some(Arc::clone(&downloaded[number].as_ref()?.1)))
                }
            };
            offers.extend(here.map(|catalog| (place.to_string(), Ok(catalog))));
        }
        offers.push((BUILT_IN.to_owned(), Ok(Arc::clone(&self.built_in))));
        Offers(offers)
    }

    async fn read_one(&self, number: usize, place: &CatalogPlace) -> Result<Arc<Catalog>, Failure> {
        let read = match place.clone() {
            CatalogPlace::Path(path) => off_thread(move || Catalog::read(&path)).await.map(Arc::new),
            CatalogPlace::Url(address) => {
                // One download for all who ask at once.
                let mut downloaded = self.downloaded.lock().await;
                if let Some((when, catalog)) = &downloaded[number]
                    && when.elapsed() < FRESH
                {
                    return Ok(Arc::clone(catalog));
                }
                // It ends when nobody waits for it any more.
                let (silent, stop) = (Arc::new(Silent), CancellationToken::new());
                let got = blocking(silent, &stop, move |job| Catalog::download(&address, &patience(), &job));
                got.await.map(|catalog| {
                    let catalog = Arc::new(catalog);
                    downloaded[number] = Some((Instant::now(), Arc::clone(&catalog)));
                    catalog
                })
            }
        };
        read.map_err(|error| unreadable(place, &error))
    }
}

/// Somebody waits for the list before there is anything to look at.
fn patience() -> Client {
    let second = Duration::from_secs(1);
    Client { connect: 5 * second, stall: 10 * second, pauses: vec![second / 4], ..Client::default() }
}

fn unreadable(place: &CatalogPlace, error: &CatalogError) -> Failure {
    let code = match error {
        CatalogError::Io { .. } | CatalogError::Fetch { .. } => Code::Unavailable,
        _ => Code::Invalid,
    };
    because(code, format!("the kernel catalog {place} cannot be used"), error)
        .hint("[[kernel_catalog]] in config.toml names it; `banger config show` shows the value")
}

impl Offers {
    /// The entry `name` for this host's processor. Fails when a catalog that goes before it cannot be read.
    pub(super) fn find(&self, name: &KernelName) -> Result<Option<Offer<'_>>, Failure> {
        for (place, catalog) in &self.0 {
            match catalog {
                Err(failure) => return Err(failure.clone()),
                Ok(catalog) => {
                    if let Some(entry) = catalog.find(name, std::env::consts::ARCH) {
                        return Ok(Some(Offer { place, entry }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The same, of the catalogs that can be read.
    pub(super) fn look_up(&self, name: &KernelName) -> Option<Offer<'_>> {
        self.all().into_iter().find(|offer| offer.entry.name == *name)
    }

    /// Everything there is for this host's processor in the catalogs that can be read, by name.
    pub(super) fn all(&self) -> Vec<Offer<'_>> {
        let mut all: Vec<Offer<'_>> = Vec::new();
        for (place, catalog) in &self.0 {
            for entry in catalog.iter().flat_map(|catalog| catalog.entries()) {
                let is_new = !all.iter().any(|offer| offer.entry.name == entry.name);
                if entry.arch == std::env::consts::ARCH && is_new {
                    all.push(Offer { place, entry });
                }
            }
        }
        all.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        all
    }

    /// Which catalogs there are and how they are.
    pub(super) fn catalogs(&self) -> Vec<KernelCatalog> {
        let here = |catalog: &Catalog| catalog.entries().iter().filter(|e| e.arch == std::env::consts::ARCH).count();
        let describe = |(place, catalog): &(String, Result<Arc<Catalog>, Failure>)| KernelCatalog {
            place: place.clone(),
            kernels: catalog.as_deref().map_or(0, here),
            failure: catalog.as_ref().err().cloned(),
        };
        self.0.iter().map(describe).collect()
    }
}

impl Offer<'_> {
    /// A catalog with this entry only.
    pub(super) fn alone(&self) -> Catalog {
        std::iter::once(self.entry.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(dir: &tempfile::TempDir, file: &str, entries: &[(&str, &str)]) -> CatalogPlace {
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, distro)| {
                serde_json::json!({"name": name, "distro": distro, "arch": std::env::consts::ARCH,
                    "kernel_version": "6.12", "sources": [{"type": "apt", "package": "linux-x", "kernel": "6.12"}]})
            })
            .collect();
        let path = dir.path().join(file);
        std::fs::write(&path, serde_json::json!({"version": 1, "entries": entries}).to_string()).unwrap();
        CatalogPlace::Path(path)
    }

    fn distro(offers: &Offers, name: &str) -> Option<String> {
        offers.look_up(&name.parse().unwrap()).map(|offer| offer.entry.distro.clone())
    }

    #[tokio::test]
    async fn a_later_catalog_goes_before_an_earlier_one_and_both_before_the_built_in_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = catalog(&dir, "a", &[("mine-6.12", "first"), ("debian-6.1", "first")]);
        let second = catalog(&dir, "b", &[("mine-6.12", "second")]);
        let offers = KernelOffers::new(vec![first, second]).read().await;
        assert_eq!(distro(&offers, "mine-6.12").as_deref(), Some("second"));
        assert_eq!(distro(&offers, "debian-6.1").as_deref(), Some("first"));
        let found = offers.find(&"debian-6.1".parse().unwrap()).unwrap().unwrap();
        assert!(found.place.ends_with("/a"), "{found:?}");
        assert_eq!(found.alone().entries().len(), 1);
        let places: Vec<_> = offers.catalogs().into_iter().map(|catalog| (catalog.place, catalog.kernels)).collect();
        assert!(places[0].0.ends_with("/b") && places[0].1 == 1 && places[2].0 == BUILT_IN, "{places:?}");
    }

    #[tokio::test]
    async fn a_catalog_that_cannot_be_read_hides_what_lies_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let gone = CatalogPlace::Path(dir.path().join("gone"));
        let top = catalog(&dir, "top", &[("mine-6.12", "top")]);
        let offers = KernelOffers::new(vec![gone, top]).read().await;
        assert_eq!(offers.find(&"mine-6.12".parse().unwrap()).unwrap().unwrap().entry.distro, "top");
        let failure = offers.find(&"debian-6.1".parse().unwrap()).unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.message.contains("/gone cannot be used"), "{failure:?}");
        assert!(offers.look_up(&"debian-6.1".parse().unwrap()).is_some());
        assert!(offers.catalogs()[1].failure.is_some());
    }

    #[tokio::test]
    async fn a_file_is_read_anew_each_time_and_nonsense_is_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let offers = KernelOffers::new(vec![catalog(&dir, "c", &[])]);
        assert!(distro(&offers.read().await, "mine-6.12").is_none());
        catalog(&dir, "c", &[("mine-6.12", "now")]);
        assert!(distro(&offers.read().await, "mine-6.12").is_some());
        std::fs::write(dir.path().join("c"), "{").unwrap();
        let failure = offers.read().await.find(&"mine-6.12".parse().unwrap()).unwrap_err();
        assert_eq!(failure.code, Code::Invalid);
    }
}
