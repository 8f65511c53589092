//! Names of images, and the deletion of an image with its last name.
//!
//! Decides who may take over a name, and keeps an image while a VM uses it. Callers that rely on an image and a kernel
//! hold the read half of a lock; callers that move names or delete an artifact take the write half. So no VM is made of
//! an image or kernel that is being deleted at that moment.

use super::{ImageService, missing::lost, no_image, off_thread, recommended::Word};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
    store::{Origin, Pinned},
};
use banger_artifacts::{
    image::{Image, ImageError},
    publish::NameLock,
};
use banger_machine::failpoint;
use banger_proto::{
    failure::{Code, Failure},
    name::{ImageId, ImageName, KernelName, VmName},
};
use std::sync::Arc;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};

/// What entitles a caller to (re)point a name: source, user's choice, force.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// Where a pulled image came from; `None` for one made on this host.
    pub(super) source: Option<String>,
    /// Whether the user chose the name, rather than the image's source.
    pub(super) chosen: bool,
    /// Whether the user said that the name may be taken from another image.
    pub(super) force: bool,
    /// Reference that leads to exactly this image, where `source` alone may not.
    pub(super) pinned: Option<Pinned>,
}

/// Image that a reference resolves to.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) id: ImageId,
    /// Name the reference was, if it was a name and not an id.
    pub(super) name: Option<ImageName>,
}

/// Guard that keeps all images and kernels on this host from being deleted while it lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct ArtifactGuard<'a>(#[expect(dead_code, reason = "it is there to be dropped")] RwLockReadGuard<'a, ()>);

impl ImageService {
    /// Checks that an image and a kernel are here, and keeps them until the returned guard is dropped.
    pub(crate) async fn hold(&self, id: &ImageId, kernel: &KernelName) -> Result<ArtifactGuard<'_>, Failure> {
        let held = self.removal_lock.read().await;
        self.ensure_here(id).await?;
        if self.ensure_kernel_here(kernel).await.is_err() {
            return Err(gone(&format!("kernel {kernel}")));
        }
        Ok(ArtifactGuard(held))
    }

    /// Points `name` at an image that is here, where `claim` allows it, and makes the image recommend the kernel that
    /// `word` gives.
    pub(super) async fn give_name(
        &self,
        name: &ImageName,
        id: &ImageId,
        claim: &Claim,
        word: Word<'_>,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        let (_removal_lock, image) = self.claim_recommending(name, id, claim, word, operation).await?;
        failpoint::hit("image.recommended").await;
        self.give_name_locked(name, id, claim, operation).await?;
        failpoint::hit("image.named").await;
        Ok(image)
    }

    /// Waits for the write half of [`Self::removal_lock`] and checks the claim. While the returned guard lives, the
    /// image is here and the name may be given to it.
    pub(super) async fn claim(
        &self,
        name: &ImageName,
        id: &ImageId,
        claim: &Claim,
    ) -> Result<RwLockWriteGuard<'_, ()>, Failure> {
        failpoint::hit("image.made").await;
        let removal_lock = self.removal_lock.write().await;
        self.ensure_here(id).await?;
        self.check_name_free(name, Some(id), claim).await?;
        Ok(removal_lock)
    }

    /// Points a name at an image. The caller holds [`Self::removal_lock`] and has checked that the name may be taken.
    pub(super) async fn give_name_locked(
        &self,
        name: &ImageName,
        id: &ImageId,
        claim: &Claim,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let before = self.store.name_origin(name).await?.map(|(before, _)| before).filter(|before| before != id);
        let Claim { source, chosen, pinned, .. } = claim.clone();
        self.store.name_image(name, id, Origin { source, chosen, pinned }).await?;
        if let Some(before) = before {
            operation.notice(if self.is_here(&before).await? {
                format!("{name} was another image until now, which stays as {before} (`banger image delete {before}` deletes it)")
            } else {
                format!("{name} was image {before} until now, which was lost")
            });
        }
        Ok(())
    }

    /// Refuses a name that belongs to another image than `id`, unless `claim` goes that far, and a chosen name that
    /// could be the id of another image: a name is looked up first. Without an `id`, before it is known which image the
    /// name will get, that may still be the one which has it.
    pub(super) async fn check_name_free(
        &self,
        name: &ImageName,
        id: Option<&ImageId>,
        claim: &Claim,
    ) -> Result<(), Failure> {
        if claim.chosen && name.as_str().parse::<ImageId>().is_ok() {
            let what = format!("no image can be called {name}: that is what ids look like");
            return Err(Failure::new(Code::Invalid, what).hint("any name will do that is not 16 of 0-9 and a-f"));
        }
        let Some((holder, origin)) = self.store.name_origin(name).await? else { return Ok(()) };
        if Some(&holder) == id {
            return Ok(());
        }
        if self.is_here(&holder).await? {
            return if claim.beats(&origin) { Ok(()) } else { Err(claim.refusal(name, origin.source.as_deref())) };
        }
        // It was lost, and its name is how its VMs know where it came from.
        if id.is_none() || claim.beats_lost(&origin) {
            return Ok(());
        }
        Err(Failure { code: Code::Conflict, ..lost(name, &origin) }
            .hint("--force lets the name point at the new one; VMs stay on the image they have"))
    }

    /// Refuses a reference for which [`Self::delete_image`] would find nothing.
    pub(crate) async fn ensure_deletable(&self, reference: &str) -> Result<(), Failure> {
        match self.dangling_name(reference).await? {
            Some(_) => Ok(()),
            None => self.resolve(reference).await.map(drop),
        }
    }

    /// Deletes a name, and with its last name the image; an image given by id goes with all its names. Refused where a
    /// VM uses the image that would go.
    pub(crate) async fn delete_image(&self, reference: &str, operation: &Operation) -> Result<(), Failure> {
        loop {
            let removal_lock = self.removal_lock.write().await;
            if let Some(lost) = self.dangling_name(reference).await? {
                return Ok(self.store.unname(&lost).await?);
            }
            let Resolved { id, name } = self.resolve_named(reference).await?;
            let mut others = self.store.names_of_image(&id).await?;
            others.retain(|other| Some(other) != name.as_ref());
            if let (Some(name), false) = (&name, others.is_empty()) {
                self.store.unname(name).await?;
                operation.notice(format!("{name} was one of its names; image {id} stays as {}", listed(&others)));
                return Ok(());
            }
            let users = self.store.vms_of_image(&id).await?;
            if !users.is_empty() {
                return Err(in_use(&format!("image {reference:?}"), &users));
            }
            let (images, wanted) = (self.images.clone(), id.clone());
            let Some(turn) = off_thread(move || images.try_lock(&wanted)).await.map_err(Explain::explain)? else {
                // Waiting for the lock can take as long as the disk needs for gigabytes. Others are not kept waiting
                // meanwhile, and everything looked up so far is looked up again.
                drop(removal_lock);
                drop(self.lock_image(&id, operation).await?);
                continue;
            };
            // The names go first: a daemon killed in between leaves an image without a name, which can be seen and
            // deleted.
            self.store.unname_image(&id).await?;
            failpoint::hit("delete.unnamed").await;
            self.remove(turn).await?;
            if !others.is_empty() {
                operation.notice(format!("its names went with it: {}", listed(&others)));
            }
            return Ok(());
        }
    }

    /// Returns the name that `reference` is, if the image it points at is no longer here.
    async fn dangling_name(&self, reference: &str) -> Result<Option<ImageName>, Failure> {
        let Ok(typed) = reference.parse() else { return Ok(None) };
        let Some((name, id, _)) = self.recorded_name(&typed).await? else { return Ok(None) };
        Ok((!self.is_here(&id).await?).then_some(name))
    }

    /// Deletes an image without names unless a VM uses it; returns whether it went. The caller holds
    /// [`Self::removal_lock`].
    pub(super) async fn drop_unused(&self, id: &ImageId, operation: &Operation) -> Result<bool, Failure> {
        let needed = !self.store.names_of_image(id).await?.is_empty() || !self.store.vms_of_image(id).await?.is_empty();
        if !needed {
            self.remove(self.lock_image(id, operation).await?).await?;
        }
        Ok(!needed)
    }

    /// Waits, as long as `operation` does, for the lock on changes of an image.
    pub(super) async fn lock_image(&self, id: &ImageId, operation: &Operation) -> Result<NameLock, Failure> {
        let (images, id) = (self.images.clone(), id.clone());
        let turn = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| images.lock(&id, &job));
        turn.await.map_err(Explain::explain)
    }

    async fn remove(&self, turn: NameLock) -> Result<(), Failure> {
        let images = self.images.clone();
        off_thread(move || images.delete_held(&turn)).await.map(drop).map_err(Explain::explain)
    }

    /// Refuses an image that was deleted since it was looked up or made.
    pub(super) async fn ensure_here(&self, id: &ImageId) -> Result<(), Failure> {
        if self.is_here(id).await? {
            return Ok(());
        }
        Err(gone(&format!("image {id}")))
    }

    pub(super) async fn is_here(&self, id: &ImageId) -> Result<bool, Failure> {
        let (images, id) = (self.images.clone(), id.clone());
        match off_thread(move || images.get(&id)).await {
            Err(ImageError::NotFound { .. }) => Ok(false),
            // A damaged image is here, too.
            Ok(_) | Err(_) => Ok(true),
        }
    }

    /// Returns the id that a name, an id or a unique prefix of an id means. A name of a lost image means that image,
    /// whoever gave the name, and fails: it is asked about what was here.
    pub(crate) async fn resolve(&self, reference: &str) -> Result<ImageId, Failure> {
        self.resolve_named(reference).await.map(|meant| meant.id)
    }

    /// Same as [`Self::resolve`], and says whether the reference was a name.
    async fn resolve_named(&self, reference: &str) -> Result<Resolved, Failure> {
        if let Ok(typed) = reference.parse::<ImageName>()
            && let Some((name, id, origin)) = self.recorded_name(&typed).await?
        {
            return if self.is_here(&id).await? {
                Ok(Resolved { id, name: Some(name) })
            } else {
                Err(lost(&name, &origin))
            };
        }
        let id = self.find_by_prefix(reference).await?.ok_or_else(|| no_image(reference))?;
        Ok(Resolved { id, name: None })
    }

    /// Finds the image whose id starts with `prefix`; an ambiguous prefix is refused.
    pub(super) async fn find_by_prefix(&self, prefix: &str) -> Result<Option<ImageId>, Failure> {
        let images = self.images.clone();
        // Damaged images are included: they can be deleted.
        let ids = off_thread(move || images.ids()).await.map_err(Explain::explain)?;
        let mut matching = ids.into_iter().filter(|id| !prefix.is_empty() && id.as_str().starts_with(prefix));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => {
                Err(Failure::new(Code::Invalid, format!("{prefix:?} begins the ids of several images"))
                    .hint("`banger image list` shows the ids"))
            }
            (one, _) => Ok(one),
        }
    }
}

impl Claim {
    /// Claim of an image made on this host, under a name the user gave it.
    pub(super) fn own(force: bool) -> Self {
        Self { source: None, chosen: true, force, pinned: None }
    }

    /// Claim of an image pulled from `source`.
    pub(super) fn pulled(source: String, chosen: bool, force: bool) -> Self {
        Self { source: Some(source), chosen, force, pinned: None }
    }

    /// Whether a name may be taken from the image that has it. One made on this host keeps its name. One from the same
    /// source gives it up: the source's name means the new image now. Between two sources the later one gets a name
    /// that neither user chose.
    fn beats(&self, there: &Origin) -> bool {
        self.force
            || match (&self.source, &there.source) {
                (Some(source), Some(other)) => source == other || !(self.chosen || there.chosen),
                _ => false,
            }
    }

    /// Whether a name may be taken from an image that was lost. One that a user gave stays with it, even if the same
    /// source has another image now. One that was made here is made again, and that may be another.
    fn beats_lost(&self, there: &Origin) -> bool {
        self.force || !there.chosen || (self.source.is_none() && there.source.is_none())
    }

    fn refusal(&self, name: &ImageName, there: Option<&str>) -> Failure {
        let Some(source) = &self.source else {
            return Failure::new(Code::AlreadyExists, format!("there is an image {name} already"))
                .hint("--force lets the name point at the new one; VMs stay on the image they have");
        };
        let there = there.map_or_else(|| "that was made here".to_owned(), |there| format!("from {there}"));
        Failure::new(Code::Conflict, format!("{name} is the name of an image {there}, not of one from {source}"))
            .hint("give another --name")
            .hint("`banger image pull --force` lets the name point at the new one; VMs stay on the image they have")
    }
}

pub(super) fn gone(what: &str) -> Failure {
    Failure::new(Code::Conflict, format!("{what} was deleted meanwhile")).hint("run the command again")
}

/// Failure of a deletion that these VMs prevent.
pub(super) fn in_use(what: &str, users: &[VmName]) -> Failure {
    let names: Vec<&str> = users.iter().take(10).map(VmName::as_str).collect();
    let more = if users.len() > 10 { ", …" } else { "" };
    Failure::new(Code::Conflict, format!("{what} is in use by {}{more}", names.join(", ")))
        .hint(format!("`banger vm delete {}` deletes what uses it, with all that is on the disks", names.join(" ")))
}

fn listed(names: &[ImageName]) -> String {
    names.iter().map(ImageName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests;
