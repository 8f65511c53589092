//! Which kernel an image recommends, and whose word on it counts: the user's last one, then that of another owner of
//! the image, then its catalog's.

use super::{ImageService, names::Claim, off_thread};
use crate::{failures::Explain, operation::Operation};
use banger_artifacts::{
    image::{Image, ImageError, ImageStore},
    publish::NameLock,
};
use banger_proto::{
    failure::Failure,
    name::{ImageId, ImageName, KernelName},
};
use tokio::sync::RwLockWriteGuard;

/// What is said, when an image gets a name, about the kernel it recommends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word<'a> {
    /// Nothing: it goes on recommending what it does.
    None,
    /// Its catalog offers it with this one.
    Offered(&'a KernelName),
    /// The user asks for this one.
    Asked(&'a KernelName),
}

impl ImageService {
    /// Waits for the write half of [`Self::removal_lock`], checks the claim, and makes the image recommend the kernel
    /// that `word` gives. While the returned guard lives, the image is here and the name may be given to it.
    pub(super) async fn claim_recommending(
        &self,
        called: &ImageName,
        id: &ImageId,
        claim: &Claim,
        word: Word<'_>,
        operation: &Operation,
    ) -> Result<(RwLockWriteGuard<'_, ()>, Image), Failure> {
        loop {
            let removal_lock = self.claim(called, id, claim).await?;
            let image = match word {
                Word::Asked(asked) => self.choose_kernel(id, asked, operation).await?,
                Word::Offered(offered) => self.recommend_kernel(id, offered, (called, claim), operation).await?,
                Word::None => Some(self.get(id).await?),
            };
            if let Some(image) = image {
                return Ok((removal_lock, image));
            }
            // Waiting for the lock can take as long as the disk needs for gigabytes: others are not kept waiting
            // meanwhile.
            drop(removal_lock);
            drop(self.lock_image(id, operation).await?);
        }
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
        let before = kernel_or_none(image.manifest.kernel.as_ref());
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
        let (wanted, kernel) = (id.clone(), offered.clone());
        let recommended =
            self.change_held(id, move |images, turn| images.recommend_held(&wanted, turn, &kernel)).await?;
        if recommended.is_some() {
            operation.notice(format!(
                "image {id} recommends kernel {offered} now, as its catalog does, and {before} before; VMs keep theirs"
            ));
        }
        Ok(recommended)
    }

    /// Makes the image recommend the kernel the user asked for, under all its names, which no catalog changes from now
    /// on. `None` while another operation changes the image. The caller holds [`Self::removal_lock`].
    async fn choose_kernel(
        &self,
        id: &ImageId,
        asked: &KernelName,
        operation: &Operation,
    ) -> Result<Option<Image>, Failure> {
        let before = self.get(id).await?;
        if before.manifest.kernel_chosen && before.manifest.kernel.as_ref() == Some(asked) {
            return Ok(Some(before));
        }
        let (wanted, kernel) = (id.clone(), asked.clone());
        let chosen = self.change_held(id, move |images, turn| images.choose_held(&wanted, turn, &kernel)).await?;
        if chosen.is_some() {
            say_what_changed(before.manifest.kernel.as_ref(), Some(asked), operation);
        }
        Ok(chosen)
    }

    /// Whether an image will recommend what its catalog offers, once it has the claimed name.
    pub(super) async fn heeds_catalog(
        &self,
        image: &Image,
        called: &ImageName,
        claim: &Claim,
    ) -> Result<bool, Failure> {
        Ok(!image.manifest.kernel_chosen && self.kernel_decided_by(image, called, claim).await?.is_none())
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

    /// Changes an image; `None` while another operation does.
    async fn change_held(
        &self,
        id: &ImageId,
        change: impl FnOnce(&ImageStore, &NameLock) -> Result<Image, ImageError> + Send + 'static,
    ) -> Result<Option<Image>, Failure> {
        let (images, wanted) = (self.images.clone(), id.clone());
        off_thread(move || images.try_lock(&wanted)?.map(|turn| change(&images, &turn)).transpose())
            .await
            .map_err(Explain::explain)
    }
}

/// Says that an image that is here recommends another kernel because the user asked for it.
pub(super) fn say_what_changed(before: Option<&KernelName>, now: Option<&KernelName>, operation: &Operation) {
    if before != now {
        let (before, now) = (kernel_or_none(before), kernel_or_none(now));
        operation.notice(format!("the image recommends {now} now, under all its names, and {before} before"));
    }
}

fn kernel_or_none(kernel: Option<&KernelName>) -> String {
    kernel.map_or_else(|| "no kernel".to_owned(), |kernel| format!("kernel {kernel}"))
}
