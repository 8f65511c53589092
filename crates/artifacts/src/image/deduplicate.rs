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
use banger_proto::name::ImageId;
use std::io;

/// Tells of an image that is not here whether somebody relies on it who had it from elsewhere: the store knows of no names
/// and no VMs.
pub trait Reliance {
    /// What is known of that, at once: the image's turn is this one's meanwhile. `None` where others are to be asked first.
    fn is_relied_on(&self, id: &ImageId) -> io::Result<Option<bool>>;

    /// Asks them, which may take its time. What they say is known from then on.
    fn ask(&self, id: &ImageId) -> io::Result<()>;
}

/// Who knows without asking anybody.
impl<F: Fn(&ImageId) -> io::Result<bool>> Reliance for F {
    fn is_relied_on(&self, id: &ImageId) -> io::Result<Option<bool>> {
        self(id).map(Some)
    }

    fn ask(&self, _id: &ImageId) -> io::Result<()> {
        Ok(())
    }
}

/// Most other sources an image is known to come from; the oldest are forgotten.
const MAX_ALSO: usize = 64;

impl ImageStore {
    /// Publishes what was made, unless the same image is here already: what stands under an id stays, and is known to come
    /// from there too. What can be pulled again can be used at once, and the disk has it some seconds later.
    pub(super) fn publish(&self, staging: Staging, made: &ImageManifest, job: &Job<'_>) -> Result<Image, ImageError> {
        self.publish_unless(staging, made, &|_: &ImageId| Ok(false), job)
    }

    /// The same of what came in a bundle. Where the image was lost and its word with it, a bundle's word does not take that
    /// place for who had the image from elsewhere.
    pub(super) fn publish_unless(
        &self,
        staging: Staging,
        made: &ImageManifest,
        relied_on: &dyn Reliance,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let entry = self.lock_unless(&made.id, relied_on, job)?;
        // Whether what is written can be had again.
        let mut lasts = made.source.lasts();
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
                // Its bytes are the same; what it says of itself was not in doubt.
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

    /// Waits for the turn of an image that is here, or on whose own word nobody relies. Others are not asked in its turn: it
    /// may take as long as the network does, and what is so then is looked at again.
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

    /// The image that is here, with what is known of it first hand now. What a bundle alone said of it goes, its kernel too,
    /// unless somebody here chose that.
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

    /// Notes where an image can be had, so that it need not be made again to be known.
    fn known_from(&self, mut image: Image, source: &Source, entry: &NameLock) -> Image {
        // Without it the image is as good, and only made again where it need not be.
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

    /// What was made, with the kernel of what it takes the place of, where that is somebody's choice and the kernel of what
    /// was made is nobody's: a bundle or its catalog may name one that nobody here asked for.
    fn with_kernel_of(&self, there: &Self) -> Option<Self> {
        let chosen = there.kernel_chosen || (there.is_own_word() && there.kernel.is_some());
        let said = if self.is_own_word() { self.kernel.is_some() } else { self.kernel_chosen };
        (chosen && !said).then(|| Self {
            kernel: there.kernel.clone(),
            kernel_chosen: there.kernel_chosen,
            ..self.clone()
        })
    }

    /// Notes one more source it comes from, if that can be had again; whether that is news.
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

    /// Whether no stranger says what it says: what it was made of does, or the user whose file it was.
    fn is_own_word(&self) -> bool {
        self.is_first_hand() || matches!(self.source, Source::Promoted(_))
    }
}
