//! OCI images, pulled from a registry or read from an archive file.

use super::{Image, ImageConfig, ImageError, ImageStore, Source, draft::Draft, store::check_superblock};
use crate::{
    job::Job,
    oci::{Digest, ImageSource, OciError, OpenedImage, Platform, Registries, RunConfig},
    rootfs::{Limits, RootfsBuilder},
};
use banger_proto::name::{ImageName, KernelName};
use serde::{Deserialize, Serialize};

/// Modification time of directories that no layer describes; anything else would make two pulls of one image two
/// images.
const EPOCH: u32 = 0;

/// Source of an OCI image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciSource {
    /// Complete reference: `docker.io/library/alpine:3.20`, `oci-archive:/home/me/app.tar`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Digest of the image that was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// For which machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// Request to pull an image.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Registry reference or archive file.
    pub source: ImageSource,
    /// For which machines.
    pub platform: Platform,
    /// Name of the image if its source gives it none.
    pub name: ImageName,
    /// The kernel it will recommend.
    pub kernel: Option<KernelName>,
    /// Whether a person chose that kernel, rather than a catalog.
    pub kernel_chosen: bool,
}

/// Result of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Whether it existed already.
    pub known: bool,
    /// Name that the archive file gives the image.
    pub called: Option<String>,
    /// Reference with the digest, where a tag was pulled that may point elsewhere later.
    pub pinned: Option<String>,
}

impl ImageStore {
    /// Pulls an image unless it exists. For a known digest only its manifest is downloaded.
    pub fn pull_oci(
        &self,
        registries: &Registries,
        request: &PullRequest,
        job: &Job<'_>,
    ) -> Result<Pulled, ImageError> {
        self.pull_opened(registries, request, job).map_err(|error| ImageError::Pull {
            what: match &request.source {
                ImageSource::Registry(_) => format!("image {}", request.name),
                file => file.to_string(),
            },
            source: Box::new(error.or_cancelled(job.cancel)),
        })
    }

    pub(super) fn pull_opened(
        &self,
        registries: &Registries,
        request: &PullRequest,
        job: &Job<'_>,
    ) -> Result<Pulled, ImageError> {
        match self.pull_once(registries, request, job) {
            // The damaged layers were removed from the cache.
            Err(ImageError::Oci(error)) if error.is_stale() => {
                tracing::warn!(error = &error as &dyn std::error::Error, "pulling {} again", request.source);
                self.pull_once(registries, request, job)
            }
            outcome => outcome,
        }
    }

    fn pull_once(&self, registries: &Registries, request: &PullRequest, job: &Job<'_>) -> Result<Pulled, ImageError> {
        job.progress.phase(&format!("asking for {}", request.source));
        let staging = self.shelf.stage()?;
        let opened = registries.open(&request.source, &request.platform, staging.path(), job)?;
        let (digest, called) = (opened.digest(), opened.name().map(str::to_owned));
        let pinned = match &request.source {
            ImageSource::Registry(tag) if tag.digest().is_none() => Some(format!("{tag}@{digest}")),
            _ => None,
        };
        let known = |image: Image| {
            // A manifest outside an index names no platform; the image made from it does.
            if let Some(OciSource { platform: Some(is), .. }) = made_from(&image, &digest)
                && is.serves(&request.platform) == 0
            {
                let (asked, of, there) = (request.platform.clone(), request.source.called(), vec![is.clone()]);
                return Err(OciError::Platform { asked, of, there }.into());
            }
            // An image that cannot be pulled again must be on the disk.
            let id = image.manifest.id.as_str();
            if !matches!(request.source, ImageSource::Registry(_)) && self.shelf.mark(id)?.is_some() {
                self.shelf.sync_now(id)?;
            }
            Ok(Pulled { image, known: true, called: called.clone(), pinned: pinned.clone() })
        };
        let same = |image: &Image| made_from(image, &digest).is_some() && check_superblock(image).is_ok();
        let here = || self.find_whole(same, job);
        if let Some(image) = here()? {
            return known(image);
        }
        // Two references may lead to one image.
        let lock = format!("pull-{}", &digest.hex()[..16]);
        let lock = self.shelf.lock_saying(&lock, "waiting for another pull of this image", job)?;
        if let Some(image) = here()? {
            return known(image);
        }
        let image = self.make(opened, registries, request, staging, job)?;
        drop(lock);
        Ok(Pulled { image, known: false, called, pinned })
    }

    fn make(
        &self,
        opened: OpenedImage<'_>,
        registries: &Registries,
        request: &PullRequest,
        staging: crate::publish::Staging,
        job: &Job<'_>,
    ) -> Result<Image, ImageError> {
        let digest = opened.digest();
        let limits = Limits {
            entries: registries.limits.max_entries,
            content_bytes: registries.limits.max_unpacked,
            metadata_bytes: registries.limits.max_metadata,
        };
        let mut builder = RootfsBuilder::new(staging.path(), limits, job.cancel)?;
        let filled = opened.fill(&mut builder, job)?;
        let source = OciSource {
            reference: request.source.to_string(),
            digest: Some(digest),
            platform: Some(filled.platform.clone()),
        };
        let draft = Draft {
            name: request.name.clone(),
            source: Source::Oci(source),
            kernel: request.kernel.clone(),
            kernel_chosen: request.kernel_chosen,
            config: Some(filled.run.into()).filter(|config| *config != ImageConfig::default()),
            epoch: EPOCH,
            arch: filled.platform.machine().to_owned(),
        };
        let manifest = draft.write(builder, staging.path(), job)?;
        self.publish(staging, &manifest, job)
    }
}

/// Finds the source of the image that has this manifest digest.
fn made_from<'a>(image: &'a Image, digest: &Digest) -> Option<&'a OciSource> {
    image.manifest.sources().find_map(|source| match source {
        Source::Oci(from) if from.digest == Some(*digest) => Some(from),
        _ => None,
    })
}

impl From<RunConfig> for ImageConfig {
    fn from(run: RunConfig) -> Self {
        let RunConfig { env, workdir, user, entrypoint, cmd } = run;
        Self { env, workdir, user, entrypoint, cmd }
    }
}
