//! Pulls a catalog's entry and names the image.
//!
//! Decides when an image already here is the one an entry offers, and whose choice of its kernel counts: the
//! requester's, then that of another owner of the image, then the catalog's.

use super::{
    ImageService,
    missing::{BlockingDependents, Dependence, Dependents},
    names::Claim,
    off_thread,
    pull::{agree_on_kernel, with_logins},
    seconds,
};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
    store::Origin,
};
use banger_artifacts::image::{CatalogEntry, Image, ImageError, Reliance, Source};
use banger_machine::failpoint;
use banger_proto::{
    api::artifact::PullImage,
    failure::{Code, Failure},
    name::{ImageId, ImageName, KernelName},
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
        if let Some(asked) = &request.kernel {
            agree_on_kernel(asked, &image)?;
        } else if let Some(offered) = &offered
            && image.manifest.kernel.as_ref() != Some(offered)
            && self.kernel_decided_by(&image, &called, &claim).await?.is_none()
        {
            // Pulled before it is recommended: until then the image keeps the kernel it has, which is here.
            self.kernel(offered, false, operation).await?;
        }
        let id = image.manifest.id;
        let (removal_lock, image) = loop {
            // From here on no other operation names or deletes the image.
            let removal_lock = self.claim(&called, &id, &claim).await?;
            let image = match (&request.kernel, &offered) {
                (Some(asked), _) => self.choose_kernel(&id, asked).await?,
                (None, Some(offered)) => self.recommend_kernel(&id, offered, (&called, &claim), operation).await?,
                (None, None) => Some(self.get(&id).await?),
            };
            if let Some(image) = image {
                break (removal_lock, image);
            }
            // Waiting for the lock can take as long as the disk needs for gigabytes: others are not kept waiting
            // meanwhile.
            drop(removal_lock);
            drop(self.lock_image(&id, operation).await?);
        };
        failpoint::hit("pull.recommended").await;
        self.give_name_locked(&called, &id, &claim, operation).await?;
        failpoint::hit("pull.named").await;
        drop(removal_lock);
        // An image is useless without the kernel it recommends.
        if let Some(kernel) = offered.filter(|offered| image.manifest.kernel.as_ref() == Some(offered)) {
            self.kernel(&kernel, false, operation).await?;
        }
        Ok(image)
    }

    /// Makes the image recommend the kernel its catalog offers now, which may have changed since it was pulled. A
    /// kernel that another owner of the image chose stays. `None` while another operation changes the image. The caller
    /// holds [`Self::removal_lock`].
    pub(super) async fn recommend_kernel(
        &self,
        id: &ImageId,
        offered: &KernelName,
        (called, claim): (&ImageName, &Claim),
        operation: &Operation,
    ) -> Result<Option<Image>, Failure> {
        let image = self.get(id).await?;
        if image.manifest.kernel.as_ref() == Some(offered) {
            return Ok(Some(image));
        }
        let kernel = image.manifest.kernel.as_ref();
        let before = kernel.map_or_else(|| "no kernel".to_owned(), |kernel| format!("kernel {kernel}"));
        if image.manifest.kernel_chosen {
            operation
                .notice(format!("image {id} goes on recommending {before}, as you chose; its catalog has {offered}"));
            return Ok(Some(image));
        }
        if let Some(name) = self.kernel_decided_by(&image, called, claim).await? {
            operation.notice(format!(
                "the same image is here as {name}, and what it recommends stays: {before}, where the catalog has \
                 {offered}; --kernel {offered} boots a VM with that"
            ));
            return Ok(Some(image));
        }
        let (images, wanted, kernel) = (self.images.clone(), id.clone(), offered.clone());
        let recommended = off_thread(move || {
            images.try_lock(&wanted)?.map(|turn| images.recommend_held(&wanted, &turn, &kernel)).transpose()
        });
        let recommended = recommended.await.map_err(Explain::explain)?;
        if recommended.is_some() {
            operation.notice(format!(
                "image {id} recommends kernel {offered} now, as its catalog does, and {before} before; VMs keep theirs"
            ));
        }
        Ok(recommended)
    }

    /// Records the kernel a user asked for as chosen, so that no catalog changes it from now on. `None` while another
    /// operation changes the image. The caller holds [`Self::removal_lock`].
    async fn choose_kernel(&self, id: &ImageId, asked: &KernelName) -> Result<Option<Image>, Failure> {
        let image = self.get(id).await?;
        agree_on_kernel(asked, &image)?;
        if image.manifest.kernel_chosen {
            return Ok(Some(image));
        }
        let (images, wanted, kernel) = (self.images.clone(), id.clone(), asked.clone());
        let chosen = off_thread(move || {
            images.try_lock(&wanted)?.map(|turn| images.choose_held(&wanted, &turn, &kernel)).transpose()
        });
        let chosen = chosen.await.map_err(Explain::explain)?;
        // The image may have been pulled again meanwhile, with another kernel.
        chosen.as_ref().map_or(Ok(()), |image| agree_on_kernel(asked, image))?;
        Ok(chosen)
    }

    /// Returns the name under which somebody has the image with a kernel that the catalog of `claim` must not change:
    /// one made on this host has the kernel, or none, that its maker wanted; one from elsewhere the kernel, or none,
    /// that it came with. The claimed name does not count.
    async fn kernel_decided_by(
        &self,
        image: &Image,
        called: &ImageName,
        claim: &Claim,
    ) -> Result<Option<ImageName>, Failure> {
        for name in self.store.names_of_image(&image.manifest.id).await? {
            if name == *called {
                continue;
            }
            let Some((_, origin)) = self.store.name_origin(&name).await? else { continue };
            if origin.source != claim.source {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn get(&self, id: &ImageId) -> Result<Image, Failure> {
        let (images, id) = (self.images.clone(), id.clone());
        off_thread(move || images.get(&id)).await.map_err(Explain::explain)
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
