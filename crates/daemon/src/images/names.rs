//! Names of images, and what goes with the last of them.
//!
//! Decides who may take a name from whom, and that an image stays while a VM uses it. Whoever relies on an image and a
//! kernel that are here holds them; whoever moves names or takes one away waits until nobody does. So nothing is made of an
//! image or a kernel that goes in the same moment.

use super::{ImageService, missing::lost, no_image, off_thread};
use crate::{
    failpoint,
    failures::Explain,
    operation::{Operation, blocking},
    store::{Origin, Pinned},
};
use banger_artifacts::{image::ImageError, publish::NameLock};
use banger_proto::{
    failure::{Code, Failure},
    name::{ImageId, ImageName, KernelName, VmName},
};
use std::sync::Arc;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};

/// On what grounds somebody gets a name.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// Where a pulled image came from; `None` for one that was made here.
    pub(super) source: Option<String>,
    /// A person chose the name, rather than the image's source.
    pub(super) chosen: bool,
    /// A person said that the name may be taken from another image.
    pub(super) force: bool,
    /// What leads to the very image, where `source` alone may not.
    pub(super) pinned: Option<Pinned>,
}

/// What a reference means.
#[derive(Debug)]
pub(super) struct Meant {
    pub(super) id: ImageId,
    /// The name it was meant by, if it was a name.
    pub(super) name: Option<ImageName>,
}

/// Keeps every image and kernel here as long as it lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held<'a>(#[expect(dead_code, reason = "it is there to be dropped")] RwLockReadGuard<'a, ()>);

impl ImageService {
    /// Makes sure that an image and a kernel are here, and stay until what is answered is dropped.
    pub(crate) async fn hold(&self, id: &ImageId, kernel: &KernelName) -> Result<Held<'_>, Failure> {
        let held = self.custody.read().await;
        self.still_here(id).await?;
        if self.know_local(kernel).await.is_err() {
            return Err(gone(&format!("kernel {kernel}")));
        }
        Ok(Held(held))
    }

    /// Points `name` at an image that is here, where it may be taken.
    pub(super) async fn give_name(
        &self,
        name: &ImageName,
        id: &ImageId,
        claim: &Claim,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let _custody = self.claim(name, id, claim).await?;
        self.give_held(name, id, claim, operation).await
    }

    /// Waits for [`Self::custody`]. As long as somebody has it, the image is here and the name may be given to it.
    pub(super) async fn claim(
        &self,
        name: &ImageName,
        id: &ImageId,
        claim: &Claim,
    ) -> Result<RwLockWriteGuard<'_, ()>, Failure> {
        failpoint::hit("image.made").await;
        let custody = self.custody.write().await;
        self.still_here(id).await?;
        self.may_take(name, Some(id), claim).await?;
        Ok(custody)
    }

    /// Points one name at an image, for somebody who has [`Self::custody`] and knows that the name may be taken.
    pub(super) async fn give_held(
        &self,
        name: &ImageName,
        id: &ImageId,
        claim: &Claim,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let before = self.holder(name).await?;
        let Claim { source, chosen, pinned, .. } = claim.clone();
        self.store.name_image(name, id, Origin { source, chosen, pinned }).await?;
        if let Some((before, _)) = before
            && before != *id
        {
            operation.notice(format!(
                "{name} was another image until now, which stays as {before} (`banger image delete {before}` deletes it)"
            ));
        }
        Ok(())
    }

    /// Refuses a name that belongs to another image than `id`, where `claim` does not go that far.
    pub(super) async fn may_take(&self, name: &ImageName, id: Option<&ImageId>, claim: &Claim) -> Result<(), Failure> {
        match self.holder(name).await? {
            Some((holder, origin)) if Some(&holder) != id && !claim.beats(&origin) => {
                Err(claim.refusal(name, origin.source.as_deref()))
            }
            _ => Ok(()),
        }
    }

    /// What has a name, and how it came to it. A name of what is not here any more is nobody's.
    async fn holder(&self, name: &ImageName) -> Result<Option<(ImageId, Origin)>, Failure> {
        let Some((id, origin)) = self.store.name_origin(name).await? else { return Ok(None) };
        Ok(self.is_here(&id).await?.then_some((id, origin)))
    }

    /// Refuses what [`Self::delete_image`] would find nothing for.
    pub(crate) async fn know_what_goes(&self, reference: &str) -> Result<(), Failure> {
        match self.name_of_nothing(reference).await? {
            Some(_) => Ok(()),
            None => self.resolve(reference).await.map(drop),
        }
    }

    /// Takes a name away, and with its last name the image; by its id an image goes with all its names. Refused where a
    /// VM uses an image that would go.
    pub(crate) async fn delete_image(&self, reference: &str, operation: &Operation) -> Result<(), Failure> {
        loop {
            let custody = self.custody.write().await;
            if let Some(lost) = self.name_of_nothing(reference).await? {
                return Ok(self.store.unname(&lost).await?);
            }
            let Meant { id, name } = self.meant(reference).await?;
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
                // It may take as long as the disk needs for gigabytes: nobody else waits for that, and what was looked up
                // here may be otherwise then.
                drop(custody);
                drop(self.turn(&id, operation).await?);
                continue;
            };
            // The names first: what is killed in between leaves an image without a name, which can be seen and deleted.
            self.store.unname_image(&id).await?;
            failpoint::hit("delete.unnamed").await;
            self.remove(turn).await?;
            if !others.is_empty() {
                operation.notice(format!("its names went with it: {}", listed(&others)));
            }
            return Ok(());
        }
    }

    /// The name `reference` is, where what it points at is here no longer.
    async fn name_of_nothing(&self, reference: &str) -> Result<Option<ImageName>, Failure> {
        let Ok(typed) = reference.parse() else { return Ok(None) };
        let Some((name, id, _)) = self.noted(&typed).await? else { return Ok(None) };
        Ok((!self.is_here(&id).await?).then_some(name))
    }

    /// Takes an image without a name away, unless a VM uses it; whether it went. For somebody who has [`Self::custody`].
    pub(super) async fn drop_unused(&self, id: &ImageId, operation: &Operation) -> Result<bool, Failure> {
        let needed = !self.store.names_of_image(id).await?.is_empty() || !self.store.vms_of_image(id).await?.is_empty();
        if !needed {
            self.remove(self.turn(id, operation).await?).await?;
        }
        Ok(!needed)
    }

    /// Waits, as long as `operation` does, until nobody else changes an image.
    pub(super) async fn turn(&self, id: &ImageId, operation: &Operation) -> Result<NameLock, Failure> {
        let (images, id) = (self.images.clone(), id.clone());
        let turn = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| images.lock(&id, &job));
        turn.await.map_err(Explain::explain)
    }

    async fn remove(&self, turn: NameLock) -> Result<(), Failure> {
        let images = self.images.clone();
        off_thread(move || images.delete_held(&turn)).await.map(drop).map_err(Explain::explain)
    }

    /// Refuses an image that somebody deleted since it was looked up or made.
    pub(super) async fn still_here(&self, id: &ImageId) -> Result<(), Failure> {
        if self.is_here(id).await? {
            return Ok(());
        }
        Err(gone(&format!("image {id}")))
    }

    pub(super) async fn is_here(&self, id: &ImageId) -> Result<bool, Failure> {
        let (images, id) = (self.images.clone(), id.clone());
        match off_thread(move || images.get(&id)).await {
            Err(ImageError::NotFound { .. }) => Ok(false),
            // One that is damaged is here.
            Ok(_) | Err(_) => Ok(true),
        }
    }

    /// The id a name, an id or a unique prefix of one means. A name of what was lost means that, whoever gave the name, and
    /// fails: what is asked about is what was here.
    pub(crate) async fn resolve(&self, reference: &str) -> Result<ImageId, Failure> {
        self.meant(reference).await.map(|meant| meant.id)
    }

    /// The same, and whether it was a name.
    async fn meant(&self, reference: &str) -> Result<Meant, Failure> {
        if let Ok(typed) = reference.parse::<ImageName>()
            && let Some((name, id, origin)) = self.noted(&typed).await?
        {
            return if self.is_here(&id).await? {
                Ok(Meant { id, name: Some(name) })
            } else {
                Err(lost(&name, &origin))
            };
        }
        let id = self.of_prefix(reference).await?.ok_or_else(|| no_image(reference))?;
        Ok(Meant { id, name: None })
    }

    /// The image whose id this is or begins, if it is one.
    pub(super) async fn of_prefix(&self, prefix: &str) -> Result<Option<ImageId>, Failure> {
        let images = self.images.clone();
        // Damaged ones too: they can be deleted.
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
    /// Of what was made here, under a name that a person gave it.
    pub(super) fn own(force: bool) -> Self {
        Self { source: None, chosen: true, force, pinned: None }
    }

    /// Of what comes from `source`.
    pub(super) fn pulled(source: String, chosen: bool, force: bool) -> Self {
        Self { source: Some(source), chosen, force, pinned: None }
    }

    /// Whether a name may be taken from what is `there`: what was made here stays, what comes from the same source is what
    /// is called so now, and of what is only called so by its source the last one is.
    fn beats(&self, there: &Origin) -> bool {
        self.force
            || match (&self.source, &there.source) {
                (Some(source), Some(other)) => source == other || !(self.chosen || there.chosen),
                _ => false,
            }
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

fn gone(what: &str) -> Failure {
    Failure::new(Code::Conflict, format!("{what} was deleted meanwhile")).hint("run the command again")
}

/// `what` cannot go because these VMs use it.
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
