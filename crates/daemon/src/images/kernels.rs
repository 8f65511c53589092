//! Kernels of the image service.

use super::{ImageService, no_kernel, off_thread, seconds};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
};
use banger_artifacts::{
    job::{Cancel, Job, Silent},
    kernel::{CatalogEntry, Kernel, KernelError},
};
use banger_proto::{
    api::artifact,
    failure::{Code, Failure},
    name::KernelName,
    size::ByteSize,
};
use std::time::Instant;

impl ImageService {
    /// Refuses a name that is neither here nor in a catalog.
    pub(crate) async fn know_kernel(&self, name: &KernelName) -> Result<(), Failure> {
        if self.kernel_catalog.find(name, std::env::consts::ARCH).is_some() || self.local_kernel(name).await?.is_some()
        {
            return Ok(());
        }
        Err(no_kernel(name))
    }

    /// The kernel `name`, pulled when it is not here, and anew when `force` says so or it is damaged and can be had.
    pub(crate) async fn kernel(
        &self,
        name: &KernelName,
        force: bool,
        operation: &Operation,
    ) -> Result<Kernel, Failure> {
        if !force && let Some(kernel) = self.local_kernel(name).await? {
            return Ok(kernel);
        }
        if self.kernel_catalog.find(name, std::env::consts::ARCH).is_none() {
            return Err(no_kernel(name));
        }
        let began = Instant::now();
        operation.begin(format!("pulling kernel {name}"));
        let (kernels, catalog, named) = (self.kernels.clone(), self.kernel_catalog.clone(), name.clone());
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

    /// The kernels on this host; with `available` also what the catalog offers.
    pub(crate) async fn list_kernels(&self, available: bool) -> Result<Vec<artifact::Kernel>, Failure> {
        let kernels = self.kernels.clone();
        let listing = off_thread(move || kernels.list()).await.map_err(Explain::explain)?;
        for (name, error) in &listing.damaged {
            tracing::warn!(%name, error = error as &dyn std::error::Error, "a kernel cannot be used");
        }
        let mut shown = Vec::new();
        for kernel in listing.kernels {
            shown.push(self.show(kernel).await?);
        }
        if available {
            for entry in self.kernel_catalog.entries() {
                if entry.arch == std::env::consts::ARCH && !shown.iter().any(|kernel| kernel.name == entry.name) {
                    shown.push(offered(entry));
                }
            }
        }
        Ok(shown)
    }

    /// One kernel, on this host or in the catalog.
    pub(crate) async fn show_kernel(&self, name: &KernelName) -> Result<artifact::Kernel, Failure> {
        if let Some(kernel) = self.local_kernel(name).await? {
            return self.show(kernel).await;
        }
        let entry = self.kernel_catalog.find(name, std::env::consts::ARCH);
        entry.map(offered).ok_or_else(|| no_kernel(name))
    }

    /// Takes a kernel away. Refused while a VM uses it, unless `force` is set.
    pub(crate) async fn delete_kernel(&self, name: &KernelName, force: bool) -> Result<(), Failure> {
        let users = self.store.vms_of_kernel(name).await?;
        if !force && !users.is_empty() {
            return Err(super::in_use(&format!("kernel {name}"), &users).hint("-f deletes it all the same"));
        }
        let (kernels, name) = (self.kernels.clone(), name.clone());
        off_thread(move || kernels.remove(&name, &Job { progress: &Silent, cancel: &Cancel::default() }))
            .await
            .map_err(Explain::explain)
    }

    /// A kernel on this host; a damaged one is as good as none when the catalog can give it again.
    async fn local_kernel(&self, name: &KernelName) -> Result<Option<Kernel>, Failure> {
        let (kernels, wanted) = (self.kernels.clone(), name.clone());
        match off_thread(move || kernels.get(&wanted)).await {
            Ok(kernel) => Ok(Some(kernel)),
            Err(KernelError::NotFound { .. }) => Ok(None),
            Err(error) => {
                let failure = error.explain();
                let mended = format!("`banger kernel pull --force {name}` fetches it again");
                Err(if failure.code == Code::Unavailable { failure } else { failure.hint(mended) })
            }
        }
    }

    async fn show(&self, kernel: Kernel) -> Result<artifact::Kernel, Failure> {
        let used_by = self.store.vms_of_kernel(&kernel.manifest.name).await?;
        let (size, kernel) = off_thread(move || (kernel.disk_bytes(), kernel)).await;
        let entry = self.kernel_catalog.find(&kernel.manifest.name, &kernel.manifest.arch);
        let manifest = kernel.manifest;
        Ok(artifact::Kernel {
            description: entry.map(|entry| entry.description.clone()),
            name: manifest.name,
            distro: manifest.distro,
            arch: manifest.arch,
            kernel_version: manifest.kernel_version,
            pulled: true,
            size: size.ok().map(ByteSize),
            sha256: Some(manifest.sha256),
            source: Some(manifest.source.to_string()),
            imported_at: Some(manifest.imported_at),
            boot_modules: manifest.boot_modules,
            used_by,
        })
    }
}

fn offered(entry: &CatalogEntry) -> artifact::Kernel {
    artifact::Kernel {
        name: entry.name.clone(),
        distro: entry.distro.clone(),
        arch: entry.arch.clone(),
        kernel_version: entry.kernel_version.clone(),
        pulled: false,
        description: Some(entry.description.clone()),
        size: None,
        sha256: None,
        source: None,
        imported_at: None,
        boot_modules: Vec::new(),
        used_by: Vec::new(),
    }
}
