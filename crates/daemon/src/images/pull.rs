//! From what a person types for an image to an image here, under a name.
//!
//! A catalog's name is that entry; a file or directory with images in it is named by its prefix; anything else is a
//! reference to a registry, and is known here by its familiar name. A tag that moved points the name at another image;
//! VMs stay with theirs.

use super::{
    ImageService,
    lost::{Known, Relied, Waiting, lost},
    names::Claim,
    off_thread, seconds,
};
use crate::{
    failpoint,
    failures::Explain,
    operation::{Operation, blocking},
    store::{Origin, Pinned},
};
use banger_artifacts::{
    image::{CatalogEntry, Image, ImageError, PullRequest, Reliance, Source},
    oci::{ImageSource, Platform, Reference},
};
use banger_proto::{
    api::artifact::PullImage,
    failure::{Code, Failure},
    name::{ImageId, ImageName, KernelName},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::runtime::Handle;

/// What an image is asked for by.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// An entry of a catalog.
    Listed(Box<CatalogEntry>),
    /// Somebody else's.
    Source(ImageSource),
}

impl ImageService {
    /// What a text means; fails when it means nothing.
    pub(super) async fn wanted(&self, text: &str) -> Result<Wanted, Failure> {
        if let Ok(name) = text.parse::<ImageName>()
            && let Some(entry) = self.image_offers.find(&name).await?
        {
            return Ok(Wanted::Listed(Box::new(entry)));
        }
        text.parse().map(Wanted::Source).map_err(|error: banger_artifacts::oci::InvalidSource| {
            let shown: String = text.chars().take(120).collect();
            Failure::new(Code::NotFound, format!("{shown:?} is no image here, in a catalog or in a registry"))
                .cause(error.to_string())
                .hint("an image in a registry is named like alpine:3.20 or registry.local:5000/team/app")
        })
    }

    /// The name an image is known by here: a reference in its familiar form, any other name as it is.
    pub(crate) async fn proper_name(&self, typed: &ImageName) -> Result<ImageName, Failure> {
        // What is here is known without a catalog, whose server may be down.
        if let Some((name, _)) = self.known(typed).await? {
            return Ok(name);
        }
        if self.image_offers.find(typed).await?.is_some() {
            return Ok(typed.clone());
        }
        Ok(familiar(typed.as_str()).unwrap_or_else(|| typed.clone()))
    }

    /// The image `name`, pulled when it is not here, with the logins in a file where one is named.
    pub(crate) async fn image(
        &self,
        name: &ImageName,
        logins: Option<PathBuf>,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        while let Some((_, id)) = self.known(name).await? {
            let (images, wanted) = (self.images.clone(), id.clone());
            let found = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
                images.settle(&wanted, &job)?;
                images.get(&wanted)
            });
            match found.await {
                // It was not whole, and is not here any more. Nobody has another one of that id.
                Err(ImageError::NotFound { .. }) if id.as_str() != name.as_str() => {}
                found => return found.map_err(Explain::explain),
            }
        }
        let image = name.to_string();
        let request = PullImage { image, name: None, kernel: None, platform: None, logins, force: false };
        self.pull_image(request, operation).await
    }

    /// Makes an image be here, and its name point at it.
    pub(crate) async fn pull_image(&self, request: PullImage, operation: &Operation) -> Result<Image, Failure> {
        if let Some(kernel) = &request.kernel {
            self.know_kernel(kernel).await?;
        }
        match self.wanted(&request.image).await? {
            Wanted::Listed(entry) => self.pull_listed(*entry, request, operation).await,
            Wanted::Source(source) => self.pull_source(source, request, operation).await,
        }
    }

    async fn pull_listed(
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
        // Under a name that was chosen it is known by that one only.
        let called = request.name.unwrap_or_else(|| name.clone());
        self.may_take(&called, None, &claim).await?;
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
            && self.keeps_its_kernel(&image, &called, &claim).await?.is_none()
        {
            // Before it is recommended: the one of before is here.
            self.kernel(offered, false, operation).await?;
        }
        let id = image.manifest.id;
        let (custody, image) = loop {
            // From here on nobody gives the image another name, or takes it away.
            let custody = self.claim(&called, &id, &claim).await?;
            let image = match (&request.kernel, &offered) {
                (Some(asked), _) => self.choosing(&id, asked).await?,
                (None, Some(offered)) => self.recommending(&id, offered, (&called, &claim), operation).await?,
                (None, None) => Some(self.get(&id).await?),
            };
            if let Some(image) = image {
                break (custody, image);
            }
            // It may take as long as the disk needs for gigabytes: nobody else waits for that.
            drop(custody);
            drop(self.turn(&id, operation).await?);
        };
        failpoint::hit("pull.recommended").await;
        self.give_held(&called, &id, &claim, operation).await?;
        failpoint::hit("pull.named").await;
        drop(custody);
        // An image is good for nothing without the kernel it names.
        if let Some(kernel) = offered.filter(|offered| image.manifest.kernel.as_ref() == Some(offered)) {
            self.kernel(&kernel, false, operation).await?;
        }
        Ok(image)
    }

    /// The image with the kernel its catalog offers for it, which may be another one than when it was pulled. A kernel
    /// that may be somebody's own stays. `None` while somebody else changes the image. For who has [`Self::custody`].
    pub(super) async fn recommending(
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
        if let Some(name) = self.keeps_its_kernel(&image, called, claim).await? {
            operation.notice(format!(
                "the same image is here as {name}, and what it recommends stays: {before}, where the catalog has \
                 {offered}; --kernel {offered} boots a VM with that"
            ));
            return Ok(Some(image));
        }
        let (images, wanted, kernel) = (self.images.clone(), id.clone(), offered.clone());
        let recommended = off_thread(move || {
            images.try_turn(&wanted)?.map(|turn| images.recommend_held(&wanted, &turn, &kernel)).transpose()
        });
        let recommended = recommended.await.map_err(Explain::explain)?;
        if recommended.is_some() {
            operation.notice(format!(
                "image {id} recommends kernel {offered} now, as its catalog does, and {before} before; VMs keep theirs"
            ));
        }
        Ok(recommended)
    }

    /// The image with the kernel that a person asked for, which it has, and which no other word takes from it from now on.
    /// `None` while somebody else changes the image. For who has [`Self::custody`].
    async fn choosing(&self, id: &ImageId, asked: &KernelName) -> Result<Option<Image>, Failure> {
        let image = self.get(id).await?;
        agree_on_kernel(asked, &image)?;
        if image.manifest.kernel_chosen {
            return Ok(Some(image));
        }
        let (images, wanted, kernel) = (self.images.clone(), id.clone(), asked.clone());
        let chosen = off_thread(move || {
            images.try_turn(&wanted)?.map(|turn| images.choose_held(&wanted, &turn, &kernel)).transpose()
        });
        let chosen = chosen.await.map_err(Explain::explain)?;
        // It may have come anew meanwhile, with another one.
        chosen.as_ref().map_or(Ok(()), |image| agree_on_kernel(asked, image))?;
        Ok(chosen)
    }

    /// The name under which somebody has the image with a kernel that the catalog of `claim` has no say in: what was made
    /// here has the kernel, or none, that its maker wanted, and what came from elsewhere has the one, or none, that it came
    /// with. The name that is claimed is somebody's no longer.
    async fn keeps_its_kernel(
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

    /// Gets what a catalog offers. `force` takes its word for an image that was lost, whoever relies on that.
    async fn pull_entry(
        &self,
        entry: CatalogEntry,
        logins: Option<PathBuf>,
        force: bool,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        let (name, began) = (entry.name.clone(), Instant::now());
        operation.begin(format!("pulling image {name}"));
        // A bundle asks for none.
        let asks = entry.sources.iter().flatten().any(|source| matches!(source, Source::Oci(_)));
        let believed = if force { " by force" } else { "" };
        let key = with_logins(format!("{name}{believed}"), logins.as_deref().filter(|_| asks));
        let (images, registries) = (self.images.clone(), self.registries_with(logins)?);
        let relied = Arc::new(Relied::new(self.store.clone(), Arc::clone(&self.image_offers), entry.name.clone()));
        let image = self
            .image_pulls
            .join(&key, operation, move |progress, stop| async move {
                let waiting = Waiting { relied: Arc::clone(&relied), runtime: Handle::current(), stop: stop.clone() };
                let pulled = blocking(progress, &stop, move |job| {
                    let believed = |_: &ImageId| Ok(false);
                    let relied_on: &dyn Reliance = if force { &believed } else { &waiting };
                    images.pull(&entry, &registries, relied_on, &job)
                });
                let error = match pulled.await {
                    Ok(image) => return Ok(image),
                    Err(error) => error,
                };
                let hints = match error.root() {
                    ImageError::Missed { id } => match relied.known(id).await? {
                        Known::Somebody(missed) => missed.hints,
                        Known::Nobody | Known::NotYet => Vec::new(),
                    },
                    _ => Vec::new(),
                };
                Err(hints.into_iter().fold(error.explain(), Failure::hint))
            })
            .await?;
        operation.notice(format!("pulled image {name} in {}", seconds(began)));
        Ok(image)
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
        let elsewhere = (platform != Platform::host()).then(|| platform.clone());
        let shown = source.to_string();
        let given = match (&request.name, &source) {
            (Some(name), _) => Some(name.clone()),
            (None, ImageSource::Registry(reference)) => Some(proper(reference)?),
            (None, _) => None,
        };
        let mut claim = Claim::pulled(shown.clone(), request.name.is_some(), request.force);
        if let Some(name) = &given {
            self.may_take(name, None, &claim).await?;
        }
        let began = Instant::now();
        let pull = PullRequest {
            source,
            platform,
            // Until the file it is in says its own.
            name: given.clone().unwrap_or_else(|| "image".parse().expect("a valid name")),
            kernel: request.kernel.clone(),
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
        if let Some(asked) = &request.kernel {
            agree_on_kernel(asked, &pulled.image)?;
            self.kernel(asked, false, operation).await?;
        }
        let reference = pulled.pinned.or_else(|| elsewhere.is_some().then_some(shown));
        claim.pinned = reference.map(|reference| Pinned { reference, platform: elsewhere });
        self.give_name(&name, &pulled.image.manifest.id, &claim, operation).await?;
        if pulled.known {
            operation.notice(format!("image {name} is up to date"));
        } else {
            operation.notice(format!("pulled image {name} in {}", seconds(began)));
        }
        Ok(pulled.image)
    }

    /// What was typed as it is known here, and the id it means, where something is there: a damaged image is, too. A whole id
    /// means its image, which may have no name, unless it is a name too.
    pub(super) async fn known(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId)>, Failure> {
        if let Some(named) = self.named_or_lost(typed).await? {
            return Ok(Some(named));
        }
        let Ok(id) = typed.as_str().parse::<ImageId>() else { return Ok(None) };
        Ok(self.is_here(&id).await?.then(|| (typed.clone(), id)))
    }

    /// The name as it is known here, whether or not anything is there, the id it points at, and how it came to the name.
    pub(super) async fn noted(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId, Origin)>, Failure> {
        let mut found = self.store.name_origin(typed).await?.map(|(id, origin)| (typed.clone(), id, origin));
        if found.is_none()
            && let Some(familiar) = familiar(typed.as_str())
        {
            found = self.store.name_origin(&familiar).await?.map(|(id, origin)| (familiar, id, origin));
        }
        Ok(found)
    }

    /// The name as it is known here, and the id it points at, where something is there. Fails for a name that a person gave
    /// to an image the disk has lost: whatever a catalog or a registry has under it is somebody else's. A name that its
    /// source gave leads to the same image again, unless that was a catalog which has no such name any more.
    pub(super) async fn named_or_lost(&self, typed: &ImageName) -> Result<Option<(ImageName, ImageId)>, Failure> {
        let Some((name, id, origin)) = self.noted(typed).await? else { return Ok(None) };
        if self.is_here(&id).await? {
            return Ok(Some((name, id)));
        }
        let leads_elsewhere =
            origin.chosen || (origin.catalog().is_some() && self.image_offers.find(&name).await?.is_none());
        if leads_elsewhere { Err(lost(&name, &origin)) } else { Ok(None) }
    }
}

/// The key of a pull: who has other logins may be told something else.
fn with_logins(what: String, logins: Option<&Path>) -> String {
    match logins {
        Some(file) => format!("{what} with {}", file.display()),
        None => what,
    }
}

/// A reference's familiar form; `None` for what is none.
fn familiar(text: &str) -> Option<ImageName> {
    text.parse::<Reference>().ok()?.familiar().parse().ok()
}

fn proper(reference: &Reference) -> Result<ImageName, Failure> {
    let familiar = reference.familiar();
    familiar.parse().map_err(|_| {
        Failure::new(Code::Invalid, format!("{familiar} cannot be the name of an image here"))
            .hint("--name gives it another")
    })
}

fn nameless(source: &str) -> Failure {
    Failure::new(Code::Invalid, format!("nothing says what the image from {source} is called"))
        .hint("--name gives it a name; what was pulled is kept, so this costs no second pull")
}

/// Refuses an image that was here already and boots with another kernel than the one that was asked for.
pub(super) fn agree_on_kernel(asked: &KernelName, image: &Image) -> Result<(), Failure> {
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

/// Whether this host's processor runs what an image holds.
pub(crate) fn runs_here(image: &Image) -> Result<(), Failure> {
    let (host, arch) = (std::env::consts::ARCH, image.manifest.arch.as_str());
    if arch == host || (host, arch) == ("x86_64", "i686") {
        return Ok(());
    }
    let why = format!("image {} is for {arch}, and this host is {host}", image.manifest.name);
    Err(Failure::new(Code::Unsupported, why).hint("pull the image again, without --platform"))
}
