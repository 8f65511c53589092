//! Resolves what a user types for an image, and pulls it under a name.
//!
//! A catalog's name means its entry; a file or directory of images is marked by a prefix; anything else is a reference
//! to a registry and known here by its familiar name. When a tag moves, the name points at another image; VMs keep
//! theirs.

use super::{
    ImageService,
    names::Claim,
    recommended::Word,
    resolve::{familiar, file},
    seconds,
};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
    store::Pinned,
};
use banger_artifacts::{
    image::{CatalogEntry, Image, ImageError, PullRequest},
    oci::{ImageSource, InvalidSource, Platform, Reference},
};
use banger_proto::{
    api::artifact::PullImage,
    failure::{Code, Failure},
    name::ImageName,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Resolved pull target: catalog entry, archive file or registry reference.
#[derive(Debug, Clone)]
pub(super) enum PullTarget {
    /// Entry of a catalog.
    Listed(Box<CatalogEntry>),
    /// Archive or registry reference.
    Source(ImageSource),
}

impl ImageService {
    /// Resolves a text; fails when it means nothing.
    pub(super) async fn resolve_pull(&self, text: &str) -> Result<PullTarget, Failure> {
        if let Some(file) = file(text) {
            return Ok(PullTarget::Source(file));
        }
        if let Ok(name) = text.parse::<ImageName>()
            && let Some(entry) = self.image_offers.find(&name).await?
        {
            return Ok(PullTarget::Listed(Box::new(entry)));
        }
        text.parse().map(PullTarget::Source).map_err(|error: InvalidSource| {
            if let InvalidSource::Relative(_) = error {
                return Failure::new(Code::NotFound, format!("there is no image or file {text}"))
                    .hint("a relative path is looked for where the command runs; the API takes absolute paths only");
            }
            let shown: String = text.chars().take(120).collect();
            Failure::new(Code::NotFound, format!("{shown:?} is no image here, in a catalog or in a registry"))
                .cause(error.to_string())
                .hint("an image in a registry is named like alpine:3.20 or registry.local:5000/team/app")
        })
    }

    /// Returns the image `name`, pulled when it is missing, with the logins in the given file if any.
    pub(crate) async fn image(
        &self,
        name: &ImageName,
        logins: Option<PathBuf>,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        while let Some((known_as, id)) = self.find_local(name).await? {
            let (images, wanted) = (self.images.clone(), id.clone());
            let found = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
                images.settle(&wanted, &job)?;
                images.get(&wanted)
            });
            match found.await {
                // The image was incomplete and has been removed. No other source has one with that id.
                Err(ImageError::NotFound { .. }) if id.as_str() != known_as.as_str() => {}
                found => return found.map_err(Explain::explain),
            }
        }
        let image = name.to_string();
        let request = PullImage { image, name: None, kernel: None, platform: None, logins, force: false };
        self.pull_image(request, operation).await
    }

    /// Pulls an image and points its name at it.
    pub(crate) async fn pull_image(&self, request: PullImage, operation: &Operation) -> Result<Image, Failure> {
        if let Some(kernel) = &request.kernel {
            self.ensure_kernel_known(kernel).await?;
        }
        match self.resolve_pull(&request.image).await? {
            PullTarget::Listed(entry) => self.pull_listed(*entry, request, operation).await,
            PullTarget::Source(source) => self.pull_source(source, request, operation).await,
        }
    }

    async fn pull_source(
        &self,
        source: ImageSource,
        request: PullImage,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        let platform = match &request.platform {
            Some(text) => text.parse().map_err(|error: banger_artifacts::oci::InvalidPlatform| {
                Failure::new(Code::Invalid, error.to_string())
            })?,
            None => Platform::host(),
        };
        if platform.os != Platform::host().os {
            return Err(Failure::new(Code::Unsupported, format!("a VM runs Linux, and no image for {platform}")));
        }
        let elsewhere = (platform != Platform::host()).then(|| platform.clone());
        let shown = source.to_string();
        let given = match (&request.name, &source) {
            (Some(name), _) => Some(name.clone()),
            (None, ImageSource::Registry(reference)) => Some(proper(reference)?),
            (None, _) => None,
        };
        let mut claim = Claim::pulled(shown.clone(), request.name.is_some(), request.force);
        if let Some(name) = &given {
            self.check_name_free(name, None, &claim).await?;
        }
        let began = Instant::now();
        let pull = PullRequest {
            source,
            platform,
            // Placeholder until the archive names the image itself.
            name: given.clone().unwrap_or_else(|| "image".parse().expect("a valid name")),
            kernel: request.kernel.clone(),
            kernel_chosen: request.kernel.is_some(),
        };
        let key = with_logins(format!("{shown} for {}", pull.platform), request.logins.as_deref());
        let (images, registries) = (self.images.clone(), self.registries_with(request.logins)?);
        let pulled = self
            .oci_pulls
            .join(&key, operation, move |progress, stop| async move {
                blocking(progress, &stop, move |job| images.pull_oci(&registries, &pull, &job))
                    .await
                    .map_err(Explain::explain)
            })
            .await?;
        let name = match given {
            Some(name) => name,
            None => pulled.called.as_deref().and_then(familiar).ok_or_else(|| nameless(&shown))?,
        };
        // Pulled before it is recommended: until then the image keeps the kernel it has, which is here.
        if let Some(asked) = &request.kernel {
            self.kernel(asked, false, operation).await?;
        }
        let reference = pulled.pinned.or_else(|| elsewhere.is_some().then_some(shown));
        claim.pinned = reference.map(|reference| Pinned { reference, platform: elsewhere });
        let (id, word) = (pulled.image.manifest.id, request.kernel.as_ref().map_or(Word::None, Word::Asked));
        let image = self.give_name(&name, &id, &claim, word, operation).await?;
        if pulled.known {
            operation.notice(format!("image {name} is up to date"));
        } else {
            operation.notice(format!("pulled image {name} in {}", seconds(began)));
        }
        Ok(image)
    }
}

/// Key of a pull. Requests with other logins do not share it: the registry may answer them differently.
pub(super) fn with_logins(what: String, logins: Option<&Path>) -> String {
    match logins {
        Some(file) => format!("{what} with {}", file.display()),
        None => what,
    }
}

fn proper(reference: &Reference) -> Result<ImageName, Failure> {
    let familiar = reference.familiar();
    familiar.parse().map_err(|_| {
        Failure::new(Code::Invalid, format!("{familiar} cannot be the name of an image here"))
            .hint(format!("`banger image pull --name NAME {familiar}` gives it another"))
    })
}

fn nameless(source: &str) -> Failure {
    Failure::new(Code::Invalid, format!("nothing says what the image from {source} is called"))
        .hint(format!(
            "`banger image pull --name NAME {source}` gives it a name; what was pulled is kept, so this costs no second pull"
        ))
}

/// Whether this host's processor runs an image's programs.
pub(crate) fn runs_here(image: &Image) -> Result<(), Failure> {
    let (host, arch) = (std::env::consts::ARCH, image.manifest.arch.as_str());
    if arch == host || (host, arch) == ("x86_64", "i686") {
        return Ok(());
    }
    let why = format!("the image is for {arch}, and this host is {host}");
    Err(Failure::new(Code::Unsupported, why).hint("pull the image again, without --platform"))
}
