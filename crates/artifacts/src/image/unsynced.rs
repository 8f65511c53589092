//! Images that may be incomplete on the disk: published shortly before the host went down, or refused by the disk.
//!
//! An image is published with a marker before it is synced. An image that another boot of the host left marked is
//! doubtful: its names and its manifest may be on the disk and half of its content not. Such an image is read as a
//! whole before it is used, by the first who needs it or in the background; one that is incomplete is removed. The
//! marker is the only state, so a process that ends in the middle leaves the rest to the next one.

use super::{Corruption, Depth, Image, ImageError, ImageStore};
use crate::{
    job::{Cancel, Job},
    publish::Mark,
};
use banger_proto::name::ImageId;
use std::{collections::HashSet, error::Error};

impl ImageStore {
    /// Continues the syncs that an earlier process of this boot did not finish. Doubtful images are left to
    /// [`Self::settle`].
    pub(super) fn go_on_syncing(&self) -> Result<(), ImageError> {
        for entry in self.shelf.unsynced()? {
            // A failure for one image must not make the others unusable.
            if entry.mark == Mark::Coming
                && let Err(error) = self.shelf.sync_behind(&entry.name)
            {
                tracing::warn!(image = entry.name, error = &error as &dyn Error, "an image may not be on the disk");
            }
        }
        Ok(())
    }

    /// Whether an image may be incomplete on the disk.
    pub fn is_doubtful(&self, id: &ImageId) -> Result<bool, ImageError> {
        Ok(self.shelf.mark(id.as_str())? == Some(Mark::Doubtful))
    }

    /// Refuses an image whose sync failed in this boot of the host; pulling it again makes it whole.
    pub(super) fn not_refused(&self, id: &ImageId) -> Result<(), ImageError> {
        match self.shelf.mark(id.as_str())? {
            Some(Mark::Refused) => Err(ImageError::Corrupt { id: id.clone(), source: Corruption::Refused }),
            _ => Ok(()),
        }
    }

    /// Verifies all doubtful images, one after the other. One that cannot be verified stays doubtful.
    pub fn settle_all(&self, job: &Job<'_>) {
        let marked = self.shelf.unsynced().unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn Error, "cannot look for images that may not be on the disk");
            Vec::new()
        });
        let doubtful = marked.into_iter().filter(|entry| entry.mark == Mark::Doubtful);
        for id in doubtful.filter_map(|entry| entry.name.parse().ok()) {
            match self.settle(&id, job) {
                Err(error) if error.is_cancelled() => return,
                Err(error) => tracing::warn!(%id, error = &error as &dyn Error, "an image cannot be looked at"),
                Ok(()) => {}
            }
        }
    }

    /// Verifies an image if it is doubtful: it is read as a whole and removed if it is incomplete. Concurrent callers
    /// have it read once. An image that cannot be read now may be readable later, so that is an error.
    pub fn settle(&self, id: &ImageId, job: &Job<'_>) -> Result<(), ImageError> {
        self.not_refused(id)?;
        if !self.is_doubtful(id)? {
            return Ok(());
        }
        job.progress.phase(&format!("reading image {id}, which was made shortly before this host went down"));
        // Not the lock of the image itself: it may be deleted or made again while it is read.
        let _lock = self.shelf.lock(&format!("settle-{id}"), job.cancel)?;
        if !self.is_doubtful(id)? {
            return Ok(());
        }
        match self.verify(id, Depth::Full, job) {
            Err(ImageError::Corrupt { source, .. }) if source.is_loss() => self.drop_lost(id, &source, job.cancel),
            Err(ImageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            // The image is whole; only the marker has to be removed.
            Ok(_) => self.keep_whole(id, job.cancel),
        }
    }

    fn keep_whole(&self, id: &ImageId, cancel: &Cancel) -> Result<(), ImageError> {
        let _lock = self.shelf.lock(id.as_str(), cancel)?;
        // An image that was made again meanwhile is being synced already.
        if self.is_doubtful(id)?
            && let Err(error) = self.shelf.sync_now(id.as_str())
        {
            tracing::warn!(%id, error = &error as &dyn Error, "an image may not be on the disk");
        }
        self.not_refused(id)
    }

    fn drop_lost(&self, id: &ImageId, why: &Corruption, cancel: &Cancel) -> Result<(), ImageError> {
        let lock = self.shelf.lock(id.as_str(), cancel)?;
        // An image that was made again meanwhile is not the one that was read.
        if self.is_doubtful(id)? {
            let from = self.get(id).map(|image| image.manifest.source.pinned()).unwrap_or_default();
            let error = why as &dyn Error;
            tracing::warn!(%id, from, error, "the disk has not all of an image, which is taken away");
            self.shelf.remove(&lock)?;
        }
        Ok(())
    }

    /// Finds the first image that fits and is complete. Images that must be obtained again are passed over.
    pub(super) fn find_whole(&self, fits: impl Fn(&Image) -> bool, job: &Job<'_>) -> Result<Option<Image>, ImageError> {
        let (mut settled, mut unfit) = (HashSet::new(), HashSet::new());
        loop {
            let mut images = self.list()?.into_iter().filter(|image| !unfit.contains(&image.manifest.id));
            let Some(image) = images.find(|image| fits(image)) else { return Ok(None) };
            let id = image.manifest.id.clone();
            if settled.contains(&id) {
                return Ok(Some(image));
            }
            // Searched again after each verification: the image may be gone, or have been made again.
            match self.settle(&id, job) {
                // Pulled again, it replaces this one.
                Err(ImageError::Corrupt { .. }) => drop(unfit.insert(id)),
                Err(error) => return Err(error),
                Ok(()) => drop(settled.insert(id)),
            }
        }
    }
}
