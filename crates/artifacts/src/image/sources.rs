//! Tries the sources of a catalog entry in their order until one works.
//!
//! Decides which failure of a source ends the pull and which leads to the next source, and that the user hears of every
//! source that was passed over: a bundle that does not match the catalog may be an attack.

use super::{
    CatalogEntry, Image, ImageError, ImageStore, OciSource, PullRequest, Reliance, Source, SourceError,
    store::check_superblock,
};
use crate::{
    job::{Job, told},
    oci::{ImageSource, Platform, Registries},
};
use banger_proto::name::ImageName;
use std::error::Error;

impl ImageStore {
    /// Pulls the image of a catalog entry from the first source that works. A bundle is refused where somebody depends
    /// on the image, which is missing here. A failed source is reported before the next one is tried.
    pub fn pull(
        &self,
        entry: &CatalogEntry,
        registries: &Registries,
        relied_on: &dyn Reliance,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let (mut useless, mut failed) = (None, None::<(&Source, ImageError)>);
        for source in &entry.sources {
            let source = match source {
                Ok(source) => source,
                Err(error) => {
                    tracing::info!(image = %entry.name, %error, "a source of another banger's");
                    useless = Some(error);
                    continue;
                }
            };
            if let Some((before, error)) = &failed {
                pass_over(&entry.name, before, error, source, job);
            }
            let tried = match source {
                Source::Mmdebstrap(recipe) => {
                    self.build(&entry.name, recipe, (entry.kernel.clone(), entry.kernel_chosen), job)
                }
                Source::Registered(_) | Source::Promoted(_) => continue,
                Source::Bundle(source) => self.pull_bundle(entry, source, &registries.client, relied_on, job),
                Source::Oci(source) => self.pull_listed(entry, source, registries, job),
            };
            match tried {
                Ok(image) => return Ok(image),
                Err(error) => {
                    let ends = error.is_cancelled() || error.is_out_of_space() || job.cancel.is_cancelled();
                    failed = Some((source, error));
                    if ends {
                        break;
                    }
                }
            }
        }
        // The error of a source that failed is more useful than that of an unsupported one.
        let error = failed.map(|(_, error)| error).or_else(|| useless.map(|error| error.clone().into()));
        let source = error.expect("a catalog entry has at least one source").or_cancelled(job.cancel);
        Err(ImageError::Pull { what: format!("image {}", entry.name), source: Box::new(source) })
    }

    fn pull_listed(
        &self,
        entry: &CatalogEntry,
        source: &OciSource,
        registries: &Registries,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let malformed =
            |error: &dyn std::fmt::Display| SourceError::Malformed { kind: "oci".into(), why: error.to_string() };
        let request = PullRequest {
            source: ImageSource::Registry(source.reference.parse().map_err(|error| malformed(&error))?),
            platform: source.platform.clone().unwrap_or_else(Platform::host),
            name: entry.name.clone(),
            kernel: entry.kernel.clone(),
            kernel_chosen: entry.kernel_chosen,
        };
        Ok(self.pull_opened(registries, &request, job)?.image)
    }

    /// Finds the local image that a pull of `entry` would yield, as far as can be told without asking anybody.
    pub fn of_entry(&self, entry: &CatalogEntry, job: &Job<'_>) -> Result<Option<Image>, ImageError> {
        let fits = |image: &Image| {
            image.manifest.sources().any(|source| entry.gives(source)) && check_superblock(image).is_ok()
        };
        self.find_whole(fits, job)
    }
}

/// Reports which source failed, why, and which one is tried next.
fn pass_over(name: &ImageName, source: &Source, error: &ImageError, next: &Source, job: &Job<'_>) {
    tracing::warn!(image = %name, %source, error = error as &dyn Error, "a source did not give the image");
    job.progress.notice(&format!("{source} did not give image {name} ({}); {next} is next", told(error)));
}
