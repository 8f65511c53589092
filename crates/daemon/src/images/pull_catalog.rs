//! Pulls a catalog's entry and names the image.
//!
//! Decides when an image already here is the one an entry offers.

use super::{
    ImageService,
    missing::{BlockingDependents, Dependence, Dependents},
    names::Claim,
    pull::with_logins,
    recommended::Word,
    seconds,
};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
    store::Origin,
};
use banger_artifacts::image::{CatalogEntry, Image, ImageError, Reliance, Source};
use banger_proto::{
    api::artifact::PullImage,
    failure::{Code, Failure},
    name::ImageId,
};
use std::{path::PathBuf, sync::Arc, time::Instant};
use tokio::runtime::Handle;

impl ImageService {
    /// Pulls what an entry offers, under its name or the requested one, together with the kernel it recommends.
    pub(super) async fn pull_listed(
        &self,
        mut entry: CatalogEntry,
        request: PullImage,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        if request.platform.is_some() {
            let why = format!("{} is an image of a catalog, which is for this host's processor", entry.name);
            return Err(Failure::new(Code::Invalid, why).hint("leave out --platform"));
        }
        if let Some(kernel) = &request.kernel {
            (entry.kernel, entry.kernel_chosen) = (Some(kernel.clone()), true);
        }
        let (name, offered) = (entry.name.clone(), entry.kernel.clone());
        let claim = Claim::pulled(Origin::of_catalog(&name), request.name.is_some(), request.force);
        // A chosen name replaces the entry's; the image does not get both.
        let called = request.name.unwrap_or_else(|| name.clone());
        self.check_name_free(&called, None, &claim).await?;
        let (images, wanted) = (self.images.clone(), entry.clone());
        let here = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| images.of_entry(&wanted, &job));
        let image = match here.await.map_err(Explain::explain)? {
            Some(image) => {
                operation.notice(format!("image {name} is here already"));
                image
            }
            None => self.pull_entry(entry, request.logins, request.force, operation).await?,
        };
        // Pulled before it is recommended: until then the image keeps the kernel it has, which is here.
        if let Some(kernel) = &offered
            && image.manifest.kernel.as_ref() != Some(kernel)
            && (request.kernel.is_some() || self.heeds_catalog(&image, &called, &claim).await?)
        {
            self.kernel(kernel, false, operation).await?;
        }
        let id = image.manifest.id;
        let word = match (&request.kernel, &offered) {
            (Some(asked), _) => Word::Asked(asked),
            (None, Some(offered)) => Word::Offered(offered),
            (None, None) => Word::None,
        };
        let image = self.give_name(&called, &id, &claim, word, operation).await?;
        // An image is useless without the kernel it recommends.
        match (offered, &image.manifest.kernel) {
            (Some(offered), Some(kernel)) if offered == *kernel => drop(self.kernel(kernel, false, operation).await?),
            // The bundle's own word: the catalog's maker did not promise that the kernel can be had.
            (None, Some(kernel)) => match self.kernel(kernel, false, operation).await {
                Err(failure) if failure.code == Code::NotFound => operation.notice(format!(
                    "the image recommends kernel {kernel}, which is not here and in no catalog; --kernel of `vm run` \
                     boots it with another"
                )),
                pulled => drop(pulled?),
            },
            _ => {}
        }
        Ok(image)
    }

    /// Pulls a catalog entry. `force` believes it about an image that was lost, whoever depends on that image.
    async fn pull_entry(
        &self,
        entry: CatalogEntry,
        logins: Option<PathBuf>,
        force: bool,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        let (name, began) = (entry.name.clone(), Instant::now());
        operation.begin(format!("pulling image {name}"));
        // Bundles need no registry login.
        let asks = entry.sources.iter().flatten().any(|source| matches!(source, Source::Oci(_)));
        let believed = if force { " by force" } else { "" };
        let key = with_logins(format!("{name}{believed}"), logins.as_deref().filter(|_| asks));
        let (images, registries) = (self.images.clone(), self.registries_with(logins)?);
        let dependents =
            Arc::new(Dependents::new(self.store.clone(), Arc::clone(&self.image_offers), entry.name.clone()));
        let image = self
            .image_pulls
            .join(&key, operation, move |progress, stop| async move {
                let blocking_dependents = BlockingDependents {
                    dependents: Arc::clone(&dependents),
                    runtime: Handle::current(),
                    stop: stop.clone(),
                };
                let pulled = blocking(progress, &stop, move |job| {
                    let believed = |_: &ImageId| Ok(false);
                    let relied_on: &dyn Reliance = if force { &believed } else { &blocking_dependents };
                    images.pull(&entry, &registries, relied_on, &job)
                });
                let error = match pulled.await {
                    Ok(image) => return Ok(image),
                    Err(error) => error,
                };
                let hints = match error.root() {
                    ImageError::Missed { id } => match dependents.look_up(id).await? {
                        Dependence::Depends(missed) => missed.hints,
                        Dependence::None | Dependence::Unknown => Vec::new(),
                    },
                    _ => Vec::new(),
                };
                Err(hints.into_iter().fold(error.explain(), Failure::hint))
            })
            .await?;
        operation.notice(format!("pulled image {name} in {}", seconds(began)));
        Ok(image)
    }
}
