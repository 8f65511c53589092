//! Images the disk may not have all of: made shortly before the host went down, or refused by the disk.
//!
//! An image is published before the disk has all of it, with a mark. What another boot of the host left marked is
//! doubtful: its names and its manifest may be there and half of its content not. Such an image is read as a whole, by
//! whoever needs it first or else behind everybody's back, before it is used; one that is not whole goes. The mark is all
//! there is to know about it, so a process that ends in the middle leaves the rest to the next.

use super::{Corruption, Depth, Image, ImageError, ImageStore};
use crate::{
    job::{Cancel, Job},
    publish::Mark,
};
use banger_proto::name::ImageId;
use std::{collections::HashSet, error::Error};

impl ImageStore {
    /// Brings to the disk what an earlier process of this boot had no time for. What is doubtful is left for
    /// [`Self::settle`].
    pub(super) fn go_on_syncing(&self) -> Result<(), ImageError> {
        for entry in self.shelf.unsynced()? {
            // One image is no reason to have none.
            if entry.mark == Mark::Coming
                && let Err(error) = self.shelf.sync_behind(&entry.name)
            {
                tracing::warn!(image = entry.name, error = &error as &dyn Error, "an image may not be on the disk");
            }
        }
        Ok(())
    }

    /// Whether the disk may not have all of an image.
    pub fn is_doubtful(&self, id: &ImageId) -> Result<bool, ImageError> {
        Ok(self.shelf.mark(id.as_str())? == Some(Mark::Doubtful))
    }

    /// Refuses an image that the disk has refused in this boot of the host: pulled again, it is whole.
    pub(super) fn not_refused(&self, id: &ImageId) -> Result<(), ImageError> {
        match self.shelf.mark(id.as_str())? {
            Some(Mark::Refused) => Err(ImageError::Corrupt { id: id.clone(), source: Corruption::Refused }),
            _ => Ok(()),
        }
    }

    /// Settles everything that is doubtful, one after the other. What cannot be settled is doubtful still.
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

    /// Makes sure of an image: one that is doubtful is read as a whole, and taken away if the disk has not all of it. Two
    /// who need it have it read once. What cannot be read now may be read another time, so that is an error.
    pub fn settle(&self, id: &ImageId, job: &Job<'_>) -> Result<(), ImageError> {
        self.not_refused(id)?;
        if !self.is_doubtful(id)? {
            return Ok(());
        }
        job.progress.phase(&format!("reading image {id}, which was made shortly before this host went down"));
        // Not the lock of the image itself: it can be deleted, or made anew, while it is read.
        let _lock = self.shelf.lock(&format!("settle-{id}"), job.cancel)?;
        if !self.is_doubtful(id)? {
            return Ok(());
        }
        match self.verify(id, Depth::Full, job) {
            Err(ImageError::Corrupt { source, .. }) if source.is_loss() => self.drop_lost(id, &source, job.cancel),
            Err(ImageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            // It is whole, so nothing but the mark is left to write.
            Ok(_) => self.keep_whole(id, job.cancel),
        }
    }

    fn keep_whole(&self, id: &ImageId, cancel: &Cancel) -> Result<(), ImageError> {
        let _lock = self.shelf.lock(id.as_str(), cancel)?;
        // What was made anew meanwhile is on its way by itself.
        if self.is_doubtful(id)?
            && let Err(error) = self.shelf.sync_now(id.as_str())
        {
            tracing::warn!(%id, error = &error as &dyn Error, "an image may not be on the disk");
        }
        self.not_refused(id)
    }

    fn drop_lost(&self, id: &ImageId, why: &Corruption, cancel: &Cancel) -> Result<(), ImageError> {
        let lock = self.shelf.lock(id.as_str(), cancel)?;
        // What was made anew meanwhile is not what was read.
        if self.is_doubtful(id)? {
            let from = self.get(id).map(|image| image.manifest.source.pinned()).unwrap_or_default();
            let error = why as &dyn Error;
            tracing::warn!(%id, from, error, "the disk has not all of an image, which is taken away");
            self.shelf.remove(&lock)?;
        }
        Ok(())
    }

    /// The first image that fits and of which it is sure that all of it is there. What can only be had again is not found.
    pub(super) fn find_whole(&self, fits: impl Fn(&Image) -> bool, job: &Job<'_>) -> Result<Option<Image>, ImageError> {
        let (mut settled, mut unfit) = (HashSet::new(), HashSet::new());
        loop {
            let mut images = self.list()?.into_iter().filter(|image| !unfit.contains(&image.manifest.id));
            let Some(image) = images.find(|image| fits(image)) else { return Ok(None) };
            let id = image.manifest.id.clone();
            if settled.contains(&id) {
                return Ok(Some(image));
            }
            // Again after each: it may have gone, or have been made anew.
            match self.settle(&id, job) {
                // Made again, it takes the place of this one.
                Err(ImageError::Corrupt { .. }) => drop(unfit.insert(id)),
                Err(error) => return Err(error),
                Ok(()) => drop(settled.insert(id)),
            }
        }
    }
}
