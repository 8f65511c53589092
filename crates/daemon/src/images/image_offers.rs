//! What images can be had by name: the built-in catalog and those the configuration names.
//!
//! The same rules as for kernels: a later catalog goes before an earlier one, all before the built-in one, and one that
//! cannot be read fails a pull rather than let through what it might have replaced.

use super::off_thread;
use crate::{config::CatalogPlace, failures::because, operation::blocking};
use banger_artifacts::{
    fetch::Client,
    image::{Catalog, CatalogEntry, CatalogError},
    job::Silent,
};
use banger_proto::{
    failure::{Code, Failure},
    name::ImageName,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long a downloaded catalog is good for.
const FRESH: Duration = Duration::from_secs(60);

/// All catalogs of images.
#[derive(Debug)]
pub(super) struct ImageOffers {
    places: Vec<CatalogPlace>,
    built_in: Catalog,
    /// By position, what was last downloaded and when.
    downloaded: Mutex<Vec<Option<Downloaded>>>,
}

/// A catalog and when it came.
type Downloaded = (Instant, Arc<Catalog>);

impl ImageOffers {
    pub(super) fn new(places: Vec<CatalogPlace>) -> Self {
        let downloaded = Mutex::new(vec![None; places.len()]);
        Self { places, built_in: Catalog::builtin(), downloaded }
    }

    /// The entry `name` for this host's processor. Fails when a catalog that goes before it cannot be read.
    pub(super) async fn find(&self, name: &ImageName) -> Result<Option<CatalogEntry>, Failure> {
        for (number, place) in self.places.iter().enumerate().rev() {
            let catalog = self.read_one(number, place).await.map_err(|error| unreadable(place, &error))?;
            if let Some(entry) = catalog.find(name) {
                return Ok(Some(entry.clone()));
            }
        }
        Ok(self.built_in.find(name).cloned())
    }

    async fn read_one(&self, number: usize, place: &CatalogPlace) -> Result<Arc<Catalog>, CatalogError> {
        match place.clone() {
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
                let catalog = Arc::new(got.await?);
                downloaded[number] = Some((Instant::now(), Arc::clone(&catalog)));
                Ok(catalog)
            }
        }
    }
}

/// Somebody waits for the answer before there is anything to look at.
fn patience() -> Client {
    let second = Duration::from_secs(1);
    Client { connect: 5 * second, stall: 10 * second, pauses: vec![second / 4], ..Client::default() }
}

fn unreadable(place: &CatalogPlace, error: &CatalogError) -> Failure {
    let code = match error {
        CatalogError::Io { .. } | CatalogError::Fetch { .. } => Code::Unavailable,
        _ => Code::Invalid,
    };
    because(code, format!("the image catalog {place} cannot be used"), error)
        .hint("[[image_catalog]] in config.toml names it; `banger config show` shows the value")
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
            CatalogPlace::Path(path)
        };
        let (a, b) = (catalog("a", "first"), catalog("b", "second"));
        let (mine, debian) = ("mine".parse().unwrap(), "debian-bookworm".parse().unwrap());
        let offers = ImageOffers::new(vec![a, b.clone()]);
        assert_eq!(offers.find(&mine).await.unwrap().unwrap().description, "second");
        assert!(offers.find(&debian).await.unwrap().is_some());
        assert!(offers.find(&"none".parse().unwrap()).await.unwrap().is_none());
        let gone = CatalogPlace::Path(dir.path().join("gone"));
        let offers = ImageOffers::new(vec![gone, b]);
        assert_eq!(offers.find(&mine).await.unwrap().unwrap().description, "second");
        assert_eq!(offers.find(&debian).await.unwrap_err().code, Code::Unavailable);
    }
}
