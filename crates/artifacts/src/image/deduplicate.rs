//! Publishing an image that may exist already: which of the two is kept, and whose metadata counts.
//!
//! An id identifies an image's bytes. How its commands are run, and on which processor, is only metadata in its
//! manifest. Where an image was made here from layers or packages, that metadata was read from the same source as the
//! bytes and is first-hand. A bundle brings metadata of its own, which anybody can write beside somebody else's bytes.

use super::{Image, ImageError, ImageManifest, ImageStore, Source, store::check_superblock};
use crate::{
    job::Job,
    publish::{Mark, NameLock, Staging},
};
use banger_proto::name::ImageId;
use std::io;

/// Tells whether somebody depends on a missing image that came from another source. The store itself knows neither
/// names nor VMs.
pub trait Reliance {
    /// Answers from what is known, without waiting, while the image is locked. `None` if others have to be asked first.
    fn is_relied_on(&self, id: &ImageId) -> io::Result<Option<bool>>;

    /// Asks the others, which may take a while. Their answers are known from then on.
    fn ask(&self, id: &ImageId) -> io::Result<()>;
}

/// A function that knows the answer without asking anybody.
impl<F: Fn(&ImageId) -> io::Result<bool>> Reliance for F {
    fn is_relied_on(&self, id: &ImageId) -> io::Result<Option<bool>> {
        self(id).map(Some)
    }

    fn ask(&self, _id: &ImageId) -> io::Result<()> {
        Ok(())
    }
}

/// Upper bound of further sources kept for an image; the oldest are dropped.
const MAX_ALSO: usize = 64;

impl ImageStore {
    /// Publishes a new image, unless the same image exists: then the existing one is kept and gains the new source. An
    /// image that can be pulled again is usable at once and synced some seconds later.
    pub(super) fn publish(&self, staging: Staging, made: &ImageManifest, job: &Job<'_>) -> Result<Image, ImageError> {
        self.publish_unless(staging, made, &|_: &ImageId| Ok(false), job)
    }

    /// Like [`Self::publish`], for an image from a bundle. If the image and its metadata were lost, a bundle's metadata
    /// does not replace it while somebody depends on the image from another source.
    pub(super) fn publish_unless(
        &self,
        staging: Staging,
        made: &ImageManifest,
        relied_on: &dyn Reliance,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let entry = self.lock_unless(&made.id, relied_on, job)?;
        // Whether the published image can be obtained again.
        let mut lasts = made.source.lasts();
        // An image that may be incomplete on the disk is replaced by the new one.
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
            if !made.is_first_hand() && !image.manifest.agrees_with(made) {
                job.progress.notice(&format!(
                    "the same image is here already, as {}, and its commands are run as that one says, not as this one",
                    made.id
                ));
            }
            if whole {
                if !made.source.lasts() {
                    self.shelf.sync_now(made.id.as_str())?;
                }
                let image = self.corrected(image, made, &entry, job)?;
                return Ok(self.known_from(image, &made.source, &entry));
            }
            if image.manifest.is_own_word() && !made.is_first_hand() {
                // The bytes are the same, and the existing metadata was never in doubt.
                let mut own = image.manifest;
                own.note(&made.source);
                own.write_over(staging.path())?;
                lasts = own.source.lasts();
            } else if let Some(with_kernel) = made.with_kernel_of(&image.manifest) {
                with_kernel.write_over(staging.path())?;
            }
        }
        job.progress.phase("saving the image");
        if lasts {
            self.shelf.publish_early(staging, &entry)?;
        } else {
            self.shelf.publish(staging, &entry)?;
        }
        self.get(&made.id)
    }

    /// Locks an image that exists or that nobody depends on. Others are asked without holding the lock, because that
    /// may take as long as the network does; the result is checked again afterwards.
    fn lock_unless(&self, id: &ImageId, relied_on: &dyn Reliance, job: &Job<'_>) -> Result<NameLock, ImageError> {
        let unknown = |error: io::Error| {
            ImageError::io("look who relies on what is in", self.shelf.directory())(error).or_cancelled(job.cancel)
        };
        loop {
            let lock = self.lock(id, job)?;
            if self.get(id).is_ok() {
                return Ok(lock);
            }
            match relied_on.is_relied_on(id).map_err(unknown)? {
                Some(false) => return Ok(lock),
                Some(true) => return Err(ImageError::Missed { id: id.clone() }),
                None => drop(lock),
            }
            relied_on.ask(id).map_err(unknown)?;
        }
    }

    /// Updates the existing image with first-hand metadata. Metadata that only came from a bundle is replaced, and so
    /// is its kernel, unless a person here chose it.
    fn corrected(
        &self,
        mut image: Image,
        made: &ImageManifest,
        entry: &NameLock,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let there = &mut image.manifest;
        if !made.is_first_hand() {
            return Ok(image);
        }
        let other_commands = !there.agrees_with(made);
        let other_kernel = !(there.is_own_word() || there.kernel_chosen) && there.kernel != made.kernel;
        if other_commands || other_kernel || (&there.os, &there.init) != (&made.os, &made.init) {
            (there.config, there.arch) = (made.config.clone(), made.arch.clone());
            (there.os, there.init) = (made.os.clone(), made.init.clone());
            if other_kernel {
                there.kernel.clone_from(&made.kernel);
            }
            there.fit();
            there.rewrite(&self.shelf, entry)?;
        }
        if other_commands {
            job.progress.notice(&format!(
                "image {} was here, and its commands were run in another way; from now on they are run as it says itself, in \
                 VMs that have it too",
                made.id
            ));
        }
        if other_kernel {
            let kernel =
                made.kernel.as_ref().map_or_else(|| "no kernel".to_owned(), |kernel| format!("kernel {kernel}"));
            job.progress
                .notice(&format!("image {} recommends {kernel} now, not that of its bundle; VMs keep theirs", made.id));
        }
        Ok(image)
    }

    /// Records a further source of an image, so that a pull from there finds it.
    fn known_from(&self, mut image: Image, source: &Source, entry: &NameLock) -> Image {
        // Without the record the image is as good; at worst it is made once more.
        if image.manifest.note(source)
            && let Err(error) = image.manifest.rewrite(&self.shelf, entry)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(id = %image.manifest.id, error, "cannot note where an image comes from too");
        }
        image
    }
}

impl Source {
    /// Whether an image of this source is made here, together with all that its manifest says.
    fn is_first_hand(&self) -> bool {
        matches!(self, Self::Mmdebstrap(_) | Self::Oci(_))
    }
}

impl ImageManifest {
    /// Whether both manifests agree on how and where commands are run.
    fn agrees_with(&self, other: &Self) -> bool {
        (&self.config, &self.arch) == (&other.config, &other.arch)
    }

    /// Returns this manifest with the kernel of the one it replaces, if a person chose that kernel and nobody chose
    /// this one's: a bundle or its catalog may name a kernel that nobody here asked for.
    fn with_kernel_of(&self, there: &Self) -> Option<Self> {
        let chosen = there.kernel_chosen || (there.is_own_word() && there.kernel.is_some());
        let said = if self.is_own_word() { self.kernel.is_some() } else { self.kernel_chosen };
        (chosen && !said).then(|| Self {
            kernel: there.kernel.clone(),
            kernel_chosen: there.kernel_chosen,
            ..self.clone()
        })
    }

    /// Adds a source, if the image can be obtained from it again. Returns whether it was added.
    fn note(&mut self, source: &Source) -> bool {
        let lasting = source.is_first_hand() || matches!(source, Source::Bundle(_));
        let news = lasting && self.sources().all(|known| known != source);
        if news {
            self.also.drain(..(self.also.len() + 1).saturating_sub(MAX_ALSO));
            self.also.push(source.clone());
            self.fit();
        }
        news
    }

    fn is_first_hand(&self) -> bool {
        self.sources().any(Source::is_first_hand)
    }

    /// Whether the metadata comes from the image's own source, or from the user whose file it was, and not from a
    /// bundle.
    fn is_own_word(&self) -> bool {
        self.is_first_hand() || matches!(self.source, Source::Promoted(_))
    }
}
