//! Kernels of the image service.

mod offers;
mod view;

use super::{ImageService, no_kernel, off_thread, seconds};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
};
use banger_artifacts::kernel::{Description, Kernel, KernelError};
use banger_proto::{
    api::artifact::{ImportKernel, KernelCatalog},
    failure::{Code, Failure},
    name::KernelName,
};
use std::{sync::Arc, time::Instant};

impl ImageService {
    /// Refuses a name that is neither here nor in a catalog.
    pub(crate) async fn ensure_kernel_known(&self, name: &KernelName) -> Result<(), Failure> {
        match self.local_kernel(name).await? {
            Some(_) => Ok(()),
            None => self.ensure_kernel_offered(name).await,
        }
    }

    /// Same for a pull, which repairs a damaged kernel.
    pub(crate) async fn ensure_kernel_pullable(&self, name: &KernelName) -> Result<(), Failure> {
        match self.local_kernel(name).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => self.ensure_kernel_offered(name).await,
        }
    }

    /// Refuses a name that is not here; a damaged kernel counts as here.
    pub(crate) async fn ensure_kernel_here(&self, name: &KernelName) -> Result<(), Failure> {
        let (kernels, wanted) = (self.kernels.clone(), name.clone());
        match off_thread(move || kernels.get(&wanted)).await {
            Err(error @ KernelError::NotFound { .. }) => Err(error.explain()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn ensure_kernel_offered(&self, name: &KernelName) -> Result<(), Failure> {
        self.kernel_offers.offers().await.find(name)?.map(drop).ok_or_else(|| no_kernel(name))
    }

    /// Returns the kernel `name`, pulled when it is missing. With `force` it is pulled again, which also replaces a
    /// damaged one.
    pub(crate) async fn kernel(
        &self,
        name: &KernelName,
        force: bool,
        operation: &Operation,
    ) -> Result<Kernel, Failure> {
        if !force && let Some(kernel) = self.local_kernel(name).await? {
            return Ok(kernel);
        }
        let began = Instant::now();
        let offers = self.kernel_offers.offers().await;
        let offer = offers.find(name)?.ok_or_else(|| no_kernel(name))?;
        operation.begin(format!("pulling kernel {name}"));
        let (kernels, catalog, named) = (self.kernels.clone(), offer.alone(), name.clone());
        let key = if force { format!("{name} again") } else { name.to_string() };
        let kernel = self
            .kernel_pulls
            .join(&key, operation, move |progress, stop| async move {
                let pulled = blocking(progress, &stop, move |job| kernels.pull(&named, &catalog, force, &job)).await;
                pulled.map(|(kernel, _)| kernel).map_err(Explain::explain)
            })
            .await?;
        operation.notice(format!("pulled kernel {name} in {}", seconds(began)));
        Ok(kernel)
    }

    /// Pulls the kernel `name` for `kernel pull`: one that is here is left alone, with a notice.
    pub(crate) async fn pull_kernel(
        &self,
        name: &KernelName,
        force: bool,
        operation: &Operation,
    ) -> Result<Kernel, Failure> {
        if force {
            return self.kernel(name, true, operation).await;
        }
        match self.local_kernel(name).await {
            Ok(Some(kernel)) => {
                let modified = view::modification(kernel.clone(), operation).await;
                let how = modified.map_or_else(String::new, |how| format!(", but modified ({how})"));
                operation.notice(format!(
                    "kernel {name} is here already{how}; `banger kernel pull --force {name}` gets it anew"
                ));
                Ok(kernel)
            }
            Ok(None) => self.kernel(name, false, operation).await,
            // A pull replaces a damaged kernel.
            Err(_) => self.kernel(name, true, operation).await,
        }
    }

    /// Imports a kernel from a user's files.
    pub(crate) async fn import_kernel(&self, request: ImportKernel, operation: &Operation) -> Result<Kernel, Failure> {
        if !request.from.is_absolute() {
            return Err(Failure::new(Code::Invalid, "the path to import from is not absolute"));
        }
        let began = Instant::now();
        let ImportKernel { kernel: name, from, distro, arch, kernel_version, force } = request;
        if let Some(distro) = &distro
            && !is_word(distro)
        {
            return Err(Failure::new(Code::Invalid, format!("{distro:?} cannot be a distribution's name"))
                .hint("letters, digits and ._+~-, at most 64 of them"));
        }
        operation.begin(format!("importing kernel {name}"));
        let description = Description { distro, arch, kernel_version };
        let (kernels, named) = (self.kernels.clone(), name.clone());
        let imported = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            kernels.import(&named, &from, &description, force, &job)
        });
        let kernel = imported.await.map_err(|error| {
            let is_taken = matches!(error, KernelError::AlreadyExists { .. });
            let failure = error.explain();
            if is_taken {
                failure.hint("--force replaces it; VMs that use it boot the new one at their next start")
            } else {
                failure
            }
        })?;
        operation.notice(format!("imported kernel {name} in {}", seconds(began)));
        Ok(kernel)
    }

    /// Lists the kernel catalogs and says which cannot be read.
    pub(crate) async fn kernel_catalogs(&self) -> Vec<KernelCatalog> {
        self.kernel_offers.offers().await.catalogs()
    }

    /// Deletes a kernel once no other operation changes it. Refused while a VM or an image uses it, unless `force` is
    /// set.
    pub(crate) async fn delete_kernel(
        &self,
        name: &KernelName,
        force: bool,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let (kernels, named) = (self.kernels.clone(), name.clone());
        // Announces that it waits for a pull of the kernel; a client that disconnects ends the wait.
        let lock = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            kernels.lock_for_removal(&named, &job)
        })
        .await
        .map_err(Explain::explain)?;
        // From here on no VM can begin to use it.
        let _removal_lock = self.removal_lock.write().await;
        if !force {
            let vms = self.store.vms_of_kernel(name).await?;
            let users = vms.iter().map(|vm| format!("VM {vm}"));
            let images = self.images_of_kernel(name).await?;
            let users: Vec<_> = users.chain(images.iter().map(|image| format!("image {image}"))).collect();
            if !users.is_empty() {
                let more = if users.len() > 10 { ", …" } else { "" };
                let shown = users.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Failure::new(Code::Conflict, format!("kernel {name} is in use by {shown}{more}")).hint(
                    "-f deletes it all the same; what uses it pulls it again at its next start, if a catalog has it",
                ));
            }
        }
        let kernels = self.kernels.clone();
        off_thread(move || kernels.remove_locked(lock)).await.map_err(Explain::explain)
    }

    /// Returns the kernel if it is on this host.
    pub(super) async fn local_kernel(&self, name: &KernelName) -> Result<Option<Kernel>, Failure> {
        let (kernels, wanted) = (self.kernels.clone(), name.clone());
        match off_thread(move || kernels.get(&wanted)).await {
            Ok(kernel) => Ok(Some(kernel)),
            Err(KernelError::NotFound { .. }) => Ok(None),
            Err(error) => Err(damaged(name, error)),
        }
    }
}

/// Failure for a damaged kernel, with a hint how to repair it.
pub(super) fn damaged(name: &KernelName, error: KernelError) -> Failure {
    let failure = error.explain();
    let mended = format!("`banger kernel pull --force {name}` fetches it again, if a catalog has it");
    // A full disk is not damage.
    if failure.hints.is_empty() { failure.hint(mended) } else { failure }
}

/// Whether a text may stand in a catalog's fields: a kernel published later copies it there.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b))
}
