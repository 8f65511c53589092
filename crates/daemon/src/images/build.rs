//! Images made on this host (built from Debian packages, promoted from a user's file), images packed for publishing,
//! and the cache of layers.

use super::{
    ImageService,
    names::{Claim, gone},
    off_thread,
    recommended::Word,
    seconds,
};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
};
use banger_artifacts::{
    image::{DebianRecipe, Image, ImageError},
    job::Cancel,
};
use banger_machine::failpoint;
use banger_proto::{
    api::artifact::{BuildImage, BundleImage, CachePruned, ImageBundle},
    failure::{Code, Failure},
    name::{ImageId, KernelName},
    size::ByteSize,
};
use std::{sync::Arc, time::Instant};

impl ImageService {
    /// Builds a Debian image and names it.
    pub(crate) async fn build_image(&self, request: BuildImage, operation: &Operation) -> Result<Image, Failure> {
        let BuildImage { name, debian, include, kernel, force } = request;
        let claim = Claim::own(force);
        let recipe =
            DebianRecipe::new(debian, include).map_err(|error| Failure::new(Code::Invalid, error.to_string()))?;
        if let Some(kernel) = &kernel {
            self.ensure_kernel_known(kernel).await?;
        }
        // Checked first: a build takes minutes, and its name may turn out to be taken.
        self.check_name_free(&name, None, &claim).await?;
        let began = Instant::now();
        operation.begin(format!("building image {name}"));
        let (images, named, asked) = (self.images.clone(), name.clone(), kernel.clone());
        let key = format!("build {name} {recipe:?} {kernel:?}");
        let image = self
            .image_pulls
            .join(&key, operation, move |progress, stop| async move {
                blocking(progress, &stop, move |job| images.build_debian(&named, &recipe, kernel, &job))
                    .await
                    .map_err(Explain::explain)
            })
            .await?;
        // The same image may have been here, under another name and with another kernel.
        let (id, word) = (image.manifest.id, asked.as_ref().map_or(Word::None, Word::Asked));
        let image = self.give_name(&name, &id, &claim, word, operation).await?;
        operation.notice(format!("built image {name} in {}", seconds(began)));
        Ok(image)
    }

    /// Copies an image that is a user's file into the store. Its names move along; VMs that use it keep it. A copy that
    /// nobody needs any more, because the image or its names went meanwhile, goes too.
    pub(crate) async fn promote_image(&self, reference: &str, operation: &Operation) -> Result<Image, Failure> {
        let id = self.resolve(reference).await?;
        let had_names = !self.store.names_of_image(&id).await?.is_empty();
        let (images, from) = (self.images.clone(), id.clone());
        let (asked, known) = off_thread(move || {
            let known = images.ids()?;
            images.get(&from).map(|image| (image.manifest.kernel, known))
        })
        .await
        .map_err(Explain::explain)?;
        let (images, from) = (self.images.clone(), id.clone());
        operation.begin(format!("copying image {reference}"));
        let promoted =
            blocking(Arc::new(operation.clone()), operation.cancel(), move |job| images.promote(&from, &job))
                .await
                .map_err(|error| {
                    let owned = matches!(error, ImageError::Managed { .. });
                    let failure = error.explain();
                    if owned { Failure { code: Code::Invalid, ..failure } } else { failure }
                })?;
        // Another file with the same content may have been promoted before.
        if let Some(asked) = &asked {
            agree_on_kernel(asked, &promoted)?;
        }
        failpoint::hit("promote.copied").await;
        let copy = &promoted.manifest.id;
        let _removal_lock = self.removal_lock.write().await;
        self.ensure_here(copy).await?;
        if let Err(failure) = self.ensure_still_means(reference, &id, had_names).await {
            if !known.contains(copy) {
                self.drop_unused(copy, operation).await?;
            }
            return Err(failure);
        }
        self.store.rename_image(&id, copy).await?;
        failpoint::hit("promote.renamed").await;
        if !self.drop_unused(&id, operation).await? {
            operation.notice(format!("VMs that use {id} stay with the file"));
        }
        Ok(promoted)
    }

    /// Refuses a reference that means another image than `id` by now, or one whose names are all other images' now.
    async fn ensure_still_means(&self, reference: &str, id: &ImageId, had_names: bool) -> Result<(), Failure> {
        if !self.is_here(id).await? {
            return Err(gone(&format!("image {id}")));
        }
        let is_meant = self.resolve(reference).await.is_ok_and(|meant| meant == *id);
        if !is_meant || had_names && self.store.names_of_image(id).await?.is_empty() {
            let what = format!("{reference} means another image by now, so nothing was promoted");
            return Err(Failure::new(Code::Conflict, what));
        }
        Ok(())
    }

    /// Writes an image as a bundle that a catalog can offer.
    pub(crate) async fn bundle_image(
        &self,
        reference: &str,
        request: BundleImage,
        operation: &Operation,
    ) -> Result<ImageBundle, Failure> {
        let id = self.resolve(reference).await?;
        let BundleImage { output } = request;
        if !output.is_absolute() {
            return Err(Failure::new(Code::Invalid, format!("{} is not an absolute path", output.display())));
        }
        operation.begin(format!("checking image {reference}"));
        // The manifest has the name of the first pull, which may be gone, or none that anybody gave.
        let names = self.store.names_of_image(&id).await?;
        let latest = format!("{reference}:latest");
        let asked = names.iter().find(|name| [reference, &latest].contains(&name.as_str())).or(names.first()).cloned();
        let (images, path) = (self.images.clone(), output.clone());
        let mut bundle =
            blocking(Arc::new(operation.clone()), operation.cancel(), move |job| images.bundle(&id, &path, &job))
                .await
                .map_err(Explain::explain)?;
        if let Some(name) = asked {
            bundle = bundle.named(&name);
        }
        Ok(ImageBundle { path: output, size: ByteSize(bundle.size), sha256: bundle.sha256, entry: bundle.entry })
    }

    /// Removes layers from the cache that no pull is reading.
    pub(crate) async fn prune_cache(&self, dry_run: bool) -> Result<CachePruned, Failure> {
        let registries = self.registries.clone();
        let pruned = off_thread(move || registries.cache.prune(dry_run, &Cancel::default())).await;
        let pruned = pruned.map_err(|error| ImageError::from(error).explain())?;
        Ok(CachePruned { blobs: pruned.blobs, bytes: ByteSize(pruned.bytes), in_use: pruned.in_use })
    }
}

/// Refuses an image that was already here and boots with another kernel than the requested one.
fn agree_on_kernel(asked: &KernelName, image: &Image) -> Result<(), Failure> {
    match &image.manifest.kernel {
        Some(kernel) if kernel == asked => Ok(()),
        other => {
            let has = other.as_ref().map_or("no kernel".to_owned(), |kernel| format!("kernel {kernel}"));
            let id = &image.manifest.id;
            Err(Failure::new(Code::Conflict, format!("the image is here already, as {id}, and recommends {has}"))
                .hint(format!("`banger vm run --image … --kernel {asked}` boots it with another"))
                .hint(format!("`banger image delete {id}`, then the same command again")))
        }
    }
}
