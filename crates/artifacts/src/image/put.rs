//! What was made and turns out to be here already: which of the two stands, and whose word counts.
//!
//! An id tells an image's bytes. How its commands want to be run, and on what processor, is its manifest's word for it.
//! Where an image was made here, of layers or packages, that word was read from the same source as the bytes and is true:
//! it is in them. A bundle brings its own word, which anybody can write beside bytes that are somebody else's.

use super::{Image, ImageError, ImageManifest, ImageStore, Source, store::check_superblock};
use crate::{
    job::Job,
    publish::{Mark, NameLock, Staging},
};

/// Most other sources an image is known to come from; the oldest are forgotten.
const MAX_ALSO: usize = 64;

impl ImageStore {
    /// Publishes what was made, unless the same image is here already: what stands under an id stays, and is known to come
    /// from there too. What can be pulled again can be used at once, and the disk has it some seconds later.
    pub(super) fn put(&self, staging: Staging, made: &ImageManifest, job: &Job<'_>) -> Result<Image, ImageError> {
        let entry = self.shelf.lock(made.id.as_str(), job.cancel)?;
        // What the disk may not have all of gives way to what has just been made.
        let sure = !matches!(self.shelf.mark(made.id.as_str())?, Some(Mark::Doubtful | Mark::Refused));
        if let Ok(image) = self.get(&made.id) {
            // The id is a part of the digest.
            if image.manifest.digest != made.digest {
                return Err(ImageError::Taken { id: made.id.clone() });
            }
            let whole = sure && check_superblock(&image).is_ok();
            let stands = whole && image.manifest.is_own_word();
            if !(made.is_first_hand() || stands || image.manifest.agrees_with(made)) {
                return Err(ImageError::Disputed { id: made.id.clone() });
            }
            if whole {
                if !made.source.lasts() {
                    self.shelf.sync_now(made.id.as_str())?;
                }
                let image = self.corrected(image, made, &entry)?;
                return Ok(self.known_from(image, &made.source, &entry));
            }
        }
        job.progress.phase("saving the image");
        if made.source.lasts() {
            self.shelf.publish_early(staging, &entry)?;
        } else {
            self.shelf.publish(staging, &entry)?;
        }
        self.get(&made.id)
    }

    /// The image that is here, with what is known of it first hand now.
    fn corrected(&self, mut image: Image, made: &ImageManifest, entry: &NameLock) -> Result<Image, ImageError> {
        let there = &mut image.manifest;
        if made.is_first_hand() && !(there.agrees_with(made) && (&there.os, &there.init) == (&made.os, &made.init)) {
            (there.config, there.arch) = (made.config.clone(), made.arch.clone());
            (there.os, there.init) = (made.os.clone(), made.init.clone());
            there.rewrite(&self.shelf, entry)?;
        }
        Ok(image)
    }

    /// Notes where an image can be had, so that it need not be made again to be known.
    fn known_from(&self, mut image: Image, source: &Source, entry: &NameLock) -> Image {
        let lasting = source.is_first_hand() || matches!(source, Source::Bundle(_));
        if lasting && image.manifest.sources().all(|known| known != source) {
            let also = &mut image.manifest.also;
            also.drain(..(also.len() + 1).saturating_sub(MAX_ALSO));
            also.push(source.clone());
            image.manifest.fit();
            // Without it the image is as good, and only made again where it need not be.
            if let Err(error) = image.manifest.rewrite(&self.shelf, entry) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(id = %image.manifest.id, error, "cannot note where an image comes from too");
            }
        }
        image
    }
}

impl Source {
    /// Whether an image of it is made here, with all that its manifest says.
    fn is_first_hand(&self) -> bool {
        matches!(self, Self::Mmdebstrap(_) | Self::Oci(_))
    }
}

impl ImageManifest {
    /// Whether both say the same of how and where commands are run.
    fn agrees_with(&self, other: &Self) -> bool {
        (&self.config, &self.arch) == (&other.config, &other.arch)
    }

    fn is_first_hand(&self) -> bool {
        self.sources().any(Source::is_first_hand)
    }

    /// Whether no stranger says what it says: what it was made of does, or the user whose file it was.
    fn is_own_word(&self) -> bool {
        self.is_first_hand() || matches!(self.source, Source::Promoted(_))
    }
}
