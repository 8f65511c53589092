//! Images the disk has lost although names and VMs still depend on them: how to get one back, and what may not replace
//! it.

use super::{ImageService, catalogs::ImageOffers, names::in_use};
use crate::store::{Origin, Store, StoreError};
use banger_artifacts::image::{Reliance, Source};
use banger_proto::{
    failure::{Code, Failure},
    name::{ImageId, ImageName},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

impl ImageService {
    /// Explains a missing image by its name, if it still has one; `failure` knows only the id.
    pub(super) async fn explain_missing(&self, id: &ImageId, failure: Failure) -> Failure {
        let name = self.store.names_of_image(id).await.ok().and_then(|names| names.into_iter().next());
        let Some(name) = name else { return failure };
        match self.store.name_origin(&name).await {
            Ok(Some((_, origin))) => lost(&name, &origin),
            _ => failure,
        }
    }
}

/// Failure for a lost image with this name. The hint gives the reference to exactly that image if there is one: a tag
/// may have moved to another image, and pulling that would make the name forget the lost one.
pub(super) fn lost(name: &ImageName, origin: &Origin) -> Failure {
    let pinned = origin.pinned.as_ref();
    let reference = pinned.map(|pinned| &pinned.reference).or(origin.source.as_ref());
    // Pulling by digest would otherwise name the image after the digest.
    let to_be_said = origin.chosen || reference != origin.source.as_ref();
    let called = if to_be_said { format!(" --name {name}") } else { String::new() };
    let platform = pinned.and_then(|pinned| pinned.platform.as_ref());
    let machine = platform.map_or_else(String::new, |platform| format!(" --platform {platform}"));
    let again = match (origin.catalog(), reference) {
        (Some(entry), _) => {
            format!(
                "`banger image pull {entry}{called}` brings it back from its catalog ([[image_catalog]] in config.toml)"
            )
        }
        (None, Some(reference)) => format!("`banger image pull {reference}{machine}{called}` brings it back"),
        (None, None) => format!("make it again under that name: `banger image build {name} …`"),
    };
    Failure::new(Code::Unavailable, format!("image {name} was lost when this host went down"))
        .hint(again)
        .hint(format!("`banger image delete {name}` gives the name up"))
}

/// Finds names and VMs that depend on a missing image, before a bundle of a catalog entry may replace it: a bundle has
/// the same bytes, but its own settings for running them. Each other catalog entry is asked once.
#[derive(Debug)]
pub(super) struct Dependents {
    store: Store,
    offers: Arc<ImageOffers>,
    /// Catalog entry the bundle comes from.
    entry: ImageName,
    /// Whether other entries would deliver the image as a bundle again.
    of_bundles: Mutex<HashMap<ImageName, bool>>,
}

/// Who depends on an image, as far as known.
#[derive(Debug)]
pub(super) enum Dependence {
    /// Nobody who got it from elsewhere.
    None,
    /// Somebody who got it from elsewhere; the failure to report.
    Depends(Box<Failure>),
    /// Unknown until more catalogs are asked.
    Unknown,
}

impl Dependents {
    pub(super) fn new(store: Store, offers: Arc<ImageOffers>, entry: ImageName) -> Self {
        Self { store, offers, entry, of_bundles: Mutex::default() }
    }

    /// Asks the catalogs that decide about an image.
    pub(super) async fn ask(&self, id: &ImageId) -> Result<(), StoreError> {
        for (_, origin) in self.others(id).await? {
            if let Some(entry) = entry_of(&origin)
                && self.answer(&entry).is_none()
            {
                let is_of_bundles = is_of_bundles(&self.offers, &entry).await;
                self.of_bundles.lock().unwrap_or_else(PoisonError::into_inner).insert(entry, is_of_bundles);
            }
        }
        Ok(())
    }

    /// Decides from what is known, without asking a catalog.
    pub(super) async fn look_up(&self, id: &ImageId) -> Result<Dependence, StoreError> {
        let mut not_asked = false;
        for (name, origin) in self.others(id).await? {
            match entry_of(&origin).map(|entry| self.answer(&entry)) {
                // A bundle of another entry has no precedence over this one.
                Some(Some(true)) => {}
                Some(None) => not_asked = true,
                Some(Some(false)) | None => return Ok(Dependence::Depends(Box::new(lost(&name, &origin)))),
            }
        }
        if not_asked {
            return Ok(Dependence::Unknown);
        }
        if !self.store.names_of_image(id).await?.is_empty() {
            return Ok(Dependence::None);
        }
        // No name is left that says where the image came from.
        let users = self.store.vms_of_image(id).await?;
        if users.is_empty() {
            return Ok(Dependence::None);
        }
        let mut failure = in_use(&format!("image {id}"), &users);
        let entry = &self.entry;
        let believed = format!("`banger image pull --force {entry}` takes the bundle's word for how it is run");
        failure.hints.insert(0, believed);
        Ok(Dependence::Depends(Box::new(failure)))
    }

    /// Names that others gave the image, with their origins.
    async fn others(&self, id: &ImageId) -> Result<Vec<(ImageName, Origin)>, StoreError> {
        let (mut others, own) = (Vec::new(), Origin::of_catalog(&self.entry));
        for name in self.store.names_of_image(id).await? {
            if let Some((_, origin)) = self.store.name_origin(&name).await?
                && origin.source.as_ref() != Some(&own)
            {
                others.push((name, origin));
            }
        }
        Ok(others)
    }

    fn answer(&self, entry: &ImageName) -> Option<bool> {
        self.of_bundles.lock().unwrap_or_else(PoisonError::into_inner).get(entry).copied()
    }
}

/// [`Dependents`] for blocking code, on behalf of a caller that may cancel.
#[derive(Debug)]
pub(super) struct BlockingDependents {
    pub(super) dependents: Arc<Dependents>,
    pub(super) runtime: Handle,
    pub(super) stop: CancellationToken,
}

impl Reliance for BlockingDependents {
    fn is_relied_on(&self, id: &ImageId) -> io::Result<Option<bool>> {
        match self.runtime.block_on(self.dependents.look_up(id)).map_err(io::Error::other)? {
            Dependence::None => Ok(Some(false)),
            Dependence::Depends(_) => Ok(Some(true)),
            Dependence::Unknown => Ok(None),
        }
    }

    fn ask(&self, id: &ImageId) -> io::Result<()> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(io::Error::other("it was given up")),
                asked = self.dependents.ask(id) => asked.map_err(io::Error::other),
            }
        })
    }
}

/// Catalog entry an image came from, if any.
fn entry_of(origin: &Origin) -> Option<ImageName> {
    origin.catalog()?.parse().ok()
}

/// Whether an image from this entry would be delivered as a bundle again.
async fn is_of_bundles(offers: &ImageOffers, entry: &ImageName) -> bool {
    // An entry that cannot be read might say otherwise.
    let Ok(Some(entry)) = offers.find(entry).await else { return false };
    entry.sources.iter().all(|source| matches!(source, Ok(Source::Bundle(_))))
}

#[cfg(test)]
mod tests;
