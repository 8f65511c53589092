//! Kernels as the API shows them.

use super::{
    damaged,
    offers::{Offer, Offers},
};
use crate::{
    failures::Explain,
    images::{ImageService, no_kernel, off_thread},
    operation::{Operation, blocking},
};
use banger_artifacts::kernel::{Bundle, Kernel, KernelError, Provenance, Source};
use banger_proto::{api::artifact, failure::Failure, name::KernelName, size::ByteSize};
use std::sync::Arc;

impl ImageService {
    /// Lists the kernels on this host, damaged ones included, and with `available` those the catalogs offer, by name.
    pub(crate) async fn list_kernels(&self, available: bool) -> Result<Vec<artifact::Kernel>, Failure> {
        let kernels = self.kernels.clone();
        let listing = off_thread(move || kernels.list()).await.map_err(Explain::explain)?;
        // Only the descriptions come from the catalogs: a plain listing does not wait for a server.
        let offers =
            if available { self.kernel_offers.offers().await } else { self.kernel_offers.offers_at_hand().await };
        let mut shown = Vec::new();
        for kernel in listing.kernels {
            shown.push(self.here(kernel, &offers).await?);
        }
        for (name, error) in listing.damaged {
            tracing::warn!(%name, error = &error as &dyn std::error::Error, "a kernel cannot be used");
            shown.push(self.broken(&name, error, &offers).await?);
        }
        for offer in offers.all().into_iter().filter(|_| available) {
            if !shown.iter().any(|kernel| kernel.name == offer.entry.name) {
                shown.push(offered(offer));
            }
        }
        shown.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(shown)
    }

    /// Shows one kernel, on this host or in a catalog; with `verify` every byte of it is checked.
    pub(crate) async fn show_kernel(&self, name: &KernelName, verify: bool) -> Result<artifact::Kernel, Failure> {
        let (kernels, wanted) = (self.kernels.clone(), name.clone());
        let kernel = match off_thread(move || kernels.get(&wanted)).await {
            Ok(kernel) => kernel,
            Err(KernelError::NotFound { .. }) => {
                let offers = self.kernel_offers.offers().await;
                return offers.find(name)?.map(offered).ok_or_else(|| no_kernel(name));
            }
            Err(error) => return self.broken(name, error, &self.kernel_offers.offers_at_hand().await).await,
        };
        // A kernel on this host is shown without waiting for a server.
        let offers = self.kernel_offers.offers_at_hand().await;
        let mut shown = self.here(kernel.clone(), &offers).await?;
        if verify {
            let operation = Operation::unwatched();
            shown.problem = modification(kernel, &operation).await;
            shown.modified = Some(shown.problem.is_some());
        }
        Ok(shown)
    }

    /// Names of the images that recommend a kernel; ids of those without a name.
    pub(super) async fn images_of_kernel(&self, name: &KernelName) -> Result<Vec<String>, Failure> {
        let images = self.images.clone();
        let images = off_thread(move || images.list()).await.map_err(Explain::explain)?;
        let names = self.store.image_names().await?;
        let using = images.into_iter().filter(|image| image.manifest.kernel.as_ref() == Some(name));
        Ok(using
            .map(|image| {
                let id = image.manifest.id;
                let named = names.iter().find(|(_, named)| *named == id);
                named.map_or_else(|| id.to_string(), |(name, _)| name.to_string())
            })
            .collect())
    }

    async fn here(&self, kernel: Kernel, offers: &Offers) -> Result<artifact::Kernel, Failure> {
        let offer = offers.look_up(&kernel.manifest.name);
        let mut shown = match offer {
            Some(offer) => offered(offer),
            None => nothing_known(&kernel.manifest.name),
        };
        let (size, kernel) = off_thread(move || (kernel.disk_bytes(), kernel)).await;
        let manifest = kernel.manifest;
        shown.outdated = offer.is_some_and(|offer| is_outdated(&manifest.source, offer.entry.bundle()));
        shown.used_by = self.store.vms_of_kernel(&manifest.name).await?;
        shown.used_by_images = self.images_of_kernel(&manifest.name).await?;
        Ok(artifact::Kernel {
            distro: manifest.distro,
            arch: manifest.arch,
            kernel_version: manifest.kernel_version,
            pulled: true,
            size: size.ok().map(ByteSize),
            sha256: Some(manifest.sha256),
            source: Some(manifest.source.to_string()),
            imported_at: Some(manifest.imported_at),
            boot_modules: manifest.boot_modules,
            ..shown
        })
    }

    /// API form of a kernel whose manifest or image cannot be read, so that nothing else is known.
    async fn broken(
        &self,
        name: &KernelName,
        error: KernelError,
        offers: &Offers,
    ) -> Result<artifact::Kernel, Failure> {
        let known = offers.look_up(name).map_or_else(|| nothing_known(name), offered);
        let problem = damaged(name, error);
        Ok(artifact::Kernel {
            pulled: true,
            problem: Some([vec![problem.message], problem.causes].concat().join(": ")),
            source: None,
            used_by: self.store.vms_of_kernel(name).await?,
            used_by_images: self.images_of_kernel(name).await?,
            ..known
        })
    }
}

/// Whether the catalog's bundle differs from the one that was pulled.
fn is_outdated(source: &Provenance, offered: Option<&Bundle>) -> bool {
    matches!((source, offered), (Provenance::Bundle { sha256, .. }, Some(bundle)) if *sha256 != bundle.sha256)
}

/// Reads all files of a kernel and says how they differ from its manifest, without repeating that they do.
pub(super) async fn modification(kernel: Kernel, operation: &Operation) -> Option<String> {
    let verified = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| kernel.verify(&job));
    let error = verified.await.err()?;
    Some(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

fn offered(offer: Offer<'_>) -> artifact::Kernel {
    let entry = offer.entry;
    artifact::Kernel {
        distro: entry.distro.clone(),
        arch: entry.arch.clone(),
        kernel_version: entry.kernel_version.clone(),
        description: Some(entry.description.clone()).filter(|text| !text.is_empty()),
        catalog: Some(offer.location.to_owned()),
        download: entry.bundle().map(|bundle| ByteSize(bundle.size)),
        source: entry.sources.iter().find_map(would_come_from),
        ..nothing_known(&entry.name)
    }
}

/// Short name of a source, in the words the manifest of a kernel pulled from it will use, as far as they are known.
fn would_come_from(source: &Source) -> Option<String> {
    match source {
        Source::Bundle(bundle) => Some(format!("bundle {}", bundle.address)),
        Source::Apt { package, kernel } => Some(format!("apt {package} {kernel}")),
        Source::Unusable(_) => None,
    }
}

fn nothing_known(name: &KernelName) -> artifact::Kernel {
    artifact::Kernel {
        name: name.clone(),
        distro: "unknown".to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        kernel_version: "unknown".to_owned(),
        pulled: false,
        description: None,
        catalog: None,
        size: None,
        download: None,
        outdated: false,
        modified: None,
        problem: None,
        sha256: None,
        source: None,
        imported_at: None,
        boot_modules: Vec::new(),
        used_by: Vec::new(),
        used_by_images: Vec::new(),
    }
}
