//! Kernels offered by the catalogs at one moment.
//!
//! A pull fails where an unreadable catalog might have replaced what it finds; a listing shows what there is and says
//! what is missing.

use crate::images::catalogs::{KernelOffers, Snapshot};
use banger_artifacts::kernel::{Catalog, CatalogEntry};
use banger_proto::{api::artifact::KernelCatalog, failure::Failure, name::KernelName};
use std::sync::Arc;

/// State of the kernel catalogs at one moment, highest precedence first.
#[derive(Debug)]
pub(super) struct Offers(Snapshot<CatalogEntry>);

/// Entry and the catalog it is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) location: &'a str,
    pub(super) entry: &'a CatalogEntry,
}

impl KernelOffers {
    /// All catalogs, as [`Self::read`] returns them.
    pub(super) async fn offers(&self) -> Offers {
        Offers(self.read().await)
    }

    /// All catalogs, as [`Self::at_hand`] returns them.
    pub(super) async fn offers_at_hand(&self) -> Offers {
        Offers(self.at_hand().await)
    }
}

impl Offers {
    /// Finds the entry `name` for this host's processor. Fails when a catalog of higher precedence cannot be read.
    pub(super) fn find(&self, name: &KernelName) -> Result<Option<Offer<'_>>, Failure> {
        for (location, catalog) in &self.0 {
            match catalog {
                Err(failure) => return Err(failure.clone()),
                Ok(catalog) => {
                    if let Some(entry) = catalog.here(name) {
                        return Ok(Some(Offer { location, entry }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Finds the entry `name` in the readable catalogs.
    pub(super) fn look_up(&self, name: &KernelName) -> Option<Offer<'_>> {
        self.all().into_iter().find(|offer| offer.entry.name == *name)
    }

    /// Lists all entries for this host's processor in the readable catalogs, by name.
    pub(super) fn all(&self) -> Vec<Offer<'_>> {
        let mut all: Vec<Offer<'_>> = Vec::new();
        for (location, catalog) in &self.0 {
            for entry in catalog.iter().flat_map(|catalog| catalog.entries()) {
                let is_new = !all.iter().any(|offer| offer.entry.name == entry.name);
                if entry.arch == std::env::consts::ARCH && is_new {
                    all.push(Offer { location, entry });
                }
            }
        }
        all.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        all
    }

    /// Lists the catalogs and their state.
    pub(super) fn catalogs(&self) -> Vec<KernelCatalog> {
        let here = |catalog: &Catalog| catalog.entries().iter().filter(|e| e.arch == std::env::consts::ARCH).count();
        let describe = |(location, catalog): &(String, Result<Arc<Catalog>, Failure>)| KernelCatalog {
            place: location.clone(),
            kernels: catalog.as_deref().map_or(0, here),
            failure: catalog.as_ref().err().cloned(),
        };
        self.0.iter().map(describe).collect()
    }
}

impl Offer<'_> {
    /// Catalog with only this entry.
    pub(super) fn alone(&self) -> Catalog {
        std::iter::once(self.entry.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CatalogLocation;
    use crate::images::catalogs::BUILT_IN;
    use banger_proto::failure::Code;

    fn catalog(dir: &tempfile::TempDir, file: &str, entries: &[(&str, &str)]) -> CatalogLocation {
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, distro)| {
                serde_json::json!({"name": name, "distro": distro, "arch": std::env::consts::ARCH,
                    "kernel_version": "6.12", "sources": [{"type": "apt", "package": "linux-x", "kernel": "6.12"}]})
            })
            .collect();
        let path = dir.path().join(file);
        std::fs::write(&path, serde_json::json!({"version": 1, "entries": entries}).to_string()).unwrap();
        CatalogLocation::Path(path)
    }

    fn distro(offers: &Offers, name: &str) -> Option<String> {
        offers.look_up(&name.parse().unwrap()).map(|offer| offer.entry.distro.clone())
    }

    #[tokio::test]
    async fn a_later_catalog_goes_before_an_earlier_one_and_both_before_the_built_in_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = catalog(&dir, "a", &[("mine-6.12", "first"), ("debian-6.1", "first")]);
        let second = catalog(&dir, "b", &[("mine-6.12", "second")]);
        let offers = KernelOffers::new(vec![first, second]).offers().await;
        assert_eq!(distro(&offers, "mine-6.12").as_deref(), Some("second"));
        assert_eq!(distro(&offers, "debian-6.1").as_deref(), Some("first"));
        let found = offers.find(&"debian-6.1".parse().unwrap()).unwrap().unwrap();
        assert!(found.location.ends_with("/a"), "{found:?}");
        assert_eq!(found.alone().entries().len(), 1);
        let locations: Vec<_> = offers.catalogs().into_iter().map(|catalog| (catalog.place, catalog.kernels)).collect();
        assert!(locations[0].0.ends_with("/b") && locations[0].1 == 1 && locations[2].0 == BUILT_IN, "{locations:?}");
    }

    #[tokio::test]
    async fn a_catalog_that_cannot_be_read_hides_what_lies_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let gone = CatalogLocation::Path(dir.path().join("gone"));
        let top = catalog(&dir, "top", &[("mine-6.12", "top")]);
        let offers = KernelOffers::new(vec![gone, top]).offers().await;
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
        assert!(distro(&offers.offers().await, "mine-6.12").is_none());
        catalog(&dir, "c", &[("mine-6.12", "now")]);
        assert!(distro(&offers.offers().await, "mine-6.12").is_some());
        std::fs::write(dir.path().join("c"), "{").unwrap();
        let failure = offers.offers().await.find(&"mine-6.12".parse().unwrap()).unwrap_err();
        assert_eq!(failure.code, Code::Invalid);
    }
}
