//! Lists images together with what is wrong with them, so that damage is visible before something needs the image.

use super::{Depth, Image, ImageError, ImageStore, draft::ROOTFS};
use crate::{
    job::{Cancel, Job, Silent},
    timestamp::rfc3339,
};
use banger_proto::name::ImageId;
use std::{fs, path::PathBuf, time::SystemTime};

/// An image and the result of a quick check.
#[derive(Debug)]
pub struct ListedImage {
    /// Its id.
    pub id: ImageId,
    /// The image, unless its manifest cannot be used.
    pub image: Option<Image>,
    /// Path of its file, whether or not it exists.
    pub rootfs: PathBuf,
    /// Time at which it was added here (RFC 3339, UTC, whole seconds).
    pub since: String,
    /// Cause.
    pub problem: Option<ImageError>,
    /// Whether it is unknown if the image is complete on the disk.
    pub doubtful: bool,
}

impl ImageStore {
    /// Checks all images, sorted by id.
    pub fn list_with_problems(&self) -> Result<Vec<ListedImage>, ImageError> {
        let mut listed = Vec::new();
        for id in self.ids()? {
            match self.quick_check(&id) {
                // Deleted meanwhile.
                Err(ImageError::NotFound { .. }) => {}
                look => listed.push(look?),
            }
        }
        Ok(listed)
    }

    /// Checks one image. Takes microseconds, so it does not find every damage.
    pub fn quick_check(&self, id: &ImageId) -> Result<ListedImage, ImageError> {
        let quick = self.verify(id, Depth::Quick, &Job { progress: &Silent, cancel: &Cancel::default() });
        let quick = quick.and_then(|image| self.not_refused(id).map(|()| image));
        let (image, problem) = match quick {
            Ok(image) => (Some(image), None),
            Err(problem @ ImageError::Corrupt { .. }) => (self.get(id).ok(), Some(problem)),
            Err(error) => return Err(error),
        };
        let directory = self.shelf.path(id.as_str())?;
        let since = if let Some(image) = &image {
            image.manifest.created_at.clone()
        } else {
            let changed = fs::metadata(&directory).and_then(|metadata| metadata.modified());
            rfc3339(changed.unwrap_or(SystemTime::UNIX_EPOCH))
        };
        let rootfs = image.as_ref().map_or_else(|| directory.join(ROOTFS), |image| image.rootfs.clone());
        Ok(ListedImage { id: id.clone(), image, rootfs, since, problem, doubtful: self.is_doubtful(id)? })
    }
}
