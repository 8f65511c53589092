//! ImageService: images and kernels on this host, by name; pulled on demand when they are missing.
//!
//! Decides what a name means and who may delete an artifact, and lets concurrent requests for the same artifact share
//! one pull. How an artifact is fetched, verified and stored is the business of `banger-artifacts`.

mod build;
mod catalogs;
mod flight;
mod kernels;
mod missing;
mod names;
mod offered;
mod progress_replay;
mod pull;
mod pull_catalog;
mod recommended;
mod register;
mod registries;
mod resolve;
mod view;

use crate::{
    config::CatalogLocation,
    failures::{self, Explain},
    operation::{Operation, blocking},
    store::Store,
};
use banger_artifacts::{
    image::{Depth, Image, ImageError, ImageStore, Pulled},
    initramfs::BootFiles,
    job::Silent,
    kernel::{Kernel, KernelStore},
    oci::{Limits, Registries},
};
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
    name::{ImageId, ImageName, KernelName},
};
use catalogs::{ImageOffers, KernelOffers};
use flight::Flights;
pub(crate) use pull::runs_here;
use std::{path::PathBuf, sync::Arc, time::Instant};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

/// Images and kernels on this host.
#[derive(Debug)]
pub(crate) struct ImageService {
    images: Arc<ImageStore>,
    kernels: Arc<KernelStore>,
    registries: Arc<Registries>,
    image_offers: Arc<ImageOffers>,
    kernel_offers: KernelOffers,
    store: Store,
    agent: PathBuf,
    /// Read lock: the holder relies on an image or kernel staying here. Write lock: the holder moves names or deletes
    /// one.
    removal_lock: RwLock<()>,
    image_pulls: Flights<Image>,
    oci_pulls: Flights<Pulled>,
    kernel_pulls: Flights<Kernel>,
}

impl ImageService {
    /// Opens both stores. `agent` is the program every guest starts with. Leftovers of killed pulls and builds are
    /// removed in the background: no caller needs to wait for that.
    pub(crate) fn open(
        layout: &Layout,
        store: Store,
        agent: PathBuf,
        kernel_catalogs: Vec<CatalogLocation>,
        image_catalogs: Vec<CatalogLocation>,
        limits: Limits,
    ) -> Result<Self, Failure> {
        Ok(Self {
            images: Arc::new(ImageStore::open_at_once(layout.images()).map_err(Explain::explain)?),
            kernels: Arc::new(KernelStore::open_at_once(&layout.kernels(), &layout.cache).map_err(Explain::explain)?),
            registries: Arc::new(registries::of_user(layout, limits)?),
            image_offers: Arc::new(ImageOffers::new(image_catalogs)),
            kernel_offers: KernelOffers::new(kernel_catalogs),
            store,
            agent,
            removal_lock: RwLock::default(),
            image_pulls: Flights::default(),
            oci_pulls: Flights::default(),
            kernel_pulls: Flights::default(),
        })
    }

    /// Refuses a name that is neither here nor in a catalog and cannot be a registry reference, before anything is
    /// pulled for it.
    pub(crate) async fn ensure_image_known(&self, name: &ImageName) -> Result<(), Failure> {
        if self.find_local(name).await?.is_some() {
            return Ok(());
        }
        self.resolve_pull(name.as_str()).await.map(drop)
    }

    /// Returns the image with this id, checked closely enough to see a truncated or replaced file.
    pub(crate) async fn image_by_id(&self, id: &ImageId, operation: &Operation) -> Result<Image, Failure> {
        let (images, wanted) = (self.images.clone(), id.clone());
        let found = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            images.settle(&wanted, &job)?;
            images.verify(&wanted, Depth::Quick, &job)
        });
        match found.await {
            Err(error @ ImageError::NotFound { .. }) => Err(self.explain_missing(id, error.explain()).await),
            found => found.map_err(Explain::explain),
        }
    }

    /// Verifies in the background the images made shortly before the host went down. A request for one of them verifies
    /// it itself, out of order. Ends with the daemon; the next daemon continues.
    pub(crate) fn verify_in_background(&self, stop: CancellationToken) {
        let images = self.images.clone();
        tokio::spawn(async move { blocking(Arc::new(Silent), &stop, move |job| images.settle_all(&job)).await });
    }

    /// Returns the files a machine boots from: the kernel's, and the shared part of the initramfs.
    pub(crate) async fn boot_files(&self, kernel: Kernel, operation: &Operation) -> Result<BootFiles, Failure> {
        let (kernels, agent) = (self.kernels.clone(), self.agent.clone());
        let progress = Arc::new(operation.clone());
        blocking(progress, operation.cancel(), move |job| kernels.boot_files(&kernel, &agent, &job))
            .await
            .map_err(Explain::explain)
    }
}

/// Runs short blocking work on the disk in the blocking thread pool.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn no_image(reference: &str) -> Failure {
    Failure::new(Code::NotFound, format!("no image {reference:?} is here, and no catalog offers it"))
        .hint("`banger image list` shows the images on this host, with --available those of the catalogs")
}

fn no_kernel(name: &KernelName) -> Failure {
    Failure::new(Code::NotFound, format!("no kernel {name} is here, and no catalog offers it"))
        .hint("`banger kernel list --available` shows what can be pulled")
}

fn seconds(began: Instant) -> String {
    format!("{:.1} s", began.elapsed().as_secs_f32())
}

/// Failure of a caller that canceled its wait for a pull.
fn given_up() -> Failure {
    failures::cancelled("the pull")
}
