//! ImageService: the images and kernels on this host, by name, pulled when they are asked for and not there.
//!
//! Decides what a name means, who may take an artifact away, and that two who want the same thing at once get it by one
//! pull. How an artifact is fetched, verified and kept is `banger-artifacts`' business.

mod build;
mod catalogs;
mod flight;
mod kernels;
mod missing;
mod names;
mod progress_replay;
mod pull;
mod pull_catalog;
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

/// Images and kernels.
#[derive(Debug)]
pub(crate) struct ImageService {
    images: Arc<ImageStore>,
    kernels: Arc<KernelStore>,
    registries: Arc<Registries>,
    image_offers: Arc<ImageOffers>,
    kernel_offers: KernelOffers,
    store: Store,
    agent: PathBuf,
    /// Held to read by who relies on an image or a kernel being here, to write by who moves names or takes one away.
    custody: RwLock<()>,
    image_pulls: Flights<Image>,
    oci_pulls: Flights<Pulled>,
    kernel_pulls: Flights<Kernel>,
}

impl ImageService {
    /// Opens both stores. `agent` is the program every guest starts with. What killed pulls and builds left goes behind the
    /// daemon's back: whoever waits for an answer has no use for its end.
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
            custody: RwLock::default(),
            image_pulls: Flights::default(),
            oci_pulls: Flights::default(),
            kernel_pulls: Flights::default(),
        })
    }

    /// Refuses a name that is neither here nor in a catalog and cannot be in a registry, before anything is pulled for its sake.
    pub(crate) async fn know_image(&self, name: &ImageName) -> Result<(), Failure> {
        if self.known(name).await?.is_some() {
            return Ok(());
        }
        self.wanted(name.as_str()).await.map(drop)
    }

    /// The image of that id, looked at closely enough to see a cut or replaced file.
    pub(crate) async fn image_by_id(&self, id: &ImageId, operation: &Operation) -> Result<Image, Failure> {
        let (images, wanted) = (self.images.clone(), id.clone());
        let found = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            images.settle(&wanted, &job)?;
            images.verify(&wanted, Depth::Quick, &job)
        });
        match found.await {
            Err(error @ ImageError::NotFound { .. }) => Err(self.not_here(id, error.explain()).await),
            found => found.map_err(Explain::explain),
        }
    }

    /// Reads, behind everybody's back, what was made shortly before the host went down; who needs one of these images
    /// before its turn reads it by himself. Ends with the daemon, and the next one goes on.
    pub(crate) fn settle_behind(&self, stop: CancellationToken) {
        let images = self.images.clone();
        tokio::spawn(async move { blocking(Arc::new(Silent), &stop, move |job| images.settle_all(&job)).await });
    }

    /// What a machine boots: the kernel's files and the shared part of the initramfs.
    pub(crate) async fn boot_files(&self, kernel: Kernel, operation: &Operation) -> Result<BootFiles, Failure> {
        let (kernels, agent) = (self.kernels.clone(), self.agent.clone());
        let progress = Arc::new(operation.clone());
        blocking(progress, operation.cancel(), move |job| kernels.boot_files(&kernel, &agent, &job))
            .await
            .map_err(Explain::explain)
    }
}

/// Runs a short piece of work that touches the disk.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn no_image(reference: &str) -> Failure {
    Failure::new(Code::NotFound, format!("no image {reference:?} is here, and no catalog offers it"))
        .hint("`banger image list` shows the images on this host")
}

fn no_kernel(name: &KernelName) -> Failure {
    Failure::new(Code::NotFound, format!("no kernel {name} is here, and no catalog offers it"))
        .hint("`banger kernel list --available` shows what can be pulled")
}

fn seconds(began: Instant) -> String {
    format!("{:.1} s", began.elapsed().as_secs_f32())
}

/// The wait for a pull was given up.
fn given_up() -> Failure {
    failures::cancelled("the pull")
}
