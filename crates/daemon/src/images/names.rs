//! Names of images, and what goes with the last of them.
//!
//! Decides who may take a name from whom, and that an image stays while a VM uses it. Whoever relies on an image and a
//! kernel that are here holds them; whoever moves names or takes one away waits until nobody does. So nothing is made of an
//! image or a kernel that goes in the same moment.

use super::{ImageService, no_image, off_thread};
use crate::{
    failpoint,
    failures::Explain,
    operation::{Operation, blocking},
    store::Origin,
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
        self.store.name_image(name, id, Origin { source: claim.source.clone(), chosen: claim.chosen }).await?;
        if let Some((before, origin)) = before
            && before != *id
            && origin.source != claim.source
        {
            operation.notice(format!("{name} was another image until now, which stays as {before}"));
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

    /// Takes a name away, and with its last name the image; by its id an image goes with all its names. Refused where a
    /// VM uses an image that would go.
    pub(crate) async fn delete_image(&self, reference: &str, operation: &Operation) -> Result<(), Failure> {
        let _custody = self.custody.write().await;
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
        let turn = self.turn(&id, operation).await?;
        // The names first: what is killed in between leaves an image without a name, which can be seen and deleted.
        self.store.unname_image(&id).await?;
        self.remove(turn).await?;
        if !others.is_empty() {
            operation.notice(format!("its names went with it: {}", listed(&others)));
        }
        Ok(())
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
    async fn turn(&self, id: &ImageId, operation: &Operation) -> Result<NameLock, Failure> {
        let (images, id) = (self.images.clone(), id.clone());
        let turn = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| images.turn(&id, job.cancel));
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

    /// The id a name, an id or a unique prefix of one means.
    pub(crate) async fn resolve(&self, reference: &str) -> Result<ImageId, Failure> {
        self.meant(reference).await.map(|meant| meant.id)
    }

    /// The same, and whether it was a name.
    async fn meant(&self, reference: &str) -> Result<Meant, Failure> {
        if let Ok(typed) = reference.parse::<ImageName>()
            && let Some((name, id)) = self.named(&typed).await?
        {
            return Ok(Meant { id, name: Some(name) });
        }
        let images = self.images.clone();
        // Damaged ones too: they can be deleted.
        let ids = off_thread(move || images.ids()).await.map_err(Explain::explain)?;
        let mut matching = ids.into_iter().filter(|id| !reference.is_empty() && id.as_str().starts_with(reference));
        match (matching.next(), matching.next()) {
            (Some(id), None) => Ok(Meant { id, name: None }),
            (Some(_), Some(_)) => {
                Err(Failure::new(Code::Invalid, format!("{reference:?} begins the ids of several images")))
            }
            (None, _) => Err(no_image(reference)),
        }
    }
}

impl Claim {
    /// Of what was made here, under a name that a person gave it.
    pub(super) fn own(force: bool) -> Self {
        Self { source: None, chosen: true, force }
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
fn in_use(what: &str, users: &[VmName]) -> Failure {
    let names: Vec<&str> = users.iter().take(10).map(VmName::as_str).collect();
    let more = if users.len() > 10 { ", …" } else { "" };
    Failure::new(Code::Conflict, format!("{what} is in use by {}{more}", names.join(", ")))
        .hint(format!("`banger vm delete {}` deletes what uses it", names.join(" ")))
}

fn listed(names: &[ImageName]) -> String {
    names.iter().map(ImageName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{VmRow, tests::sample};
    use banger_artifacts::{
        job::{Cancel, Job, Silent},
        oci::Limits,
        rootfs::{Format, RootfsBuilder},
    };
    use banger_proto::layout::Layout;
    use std::time::Duration;

    #[test]
    fn a_name_goes_to_what_it_was_given_for() {
        let pulled = |source: &str, chosen| Claim { source: Some(source.into()), chosen, force: false };
        let (called, given, made) = ((Some("a:1"), false), (Some("a:1"), true), (None, true));
        for (claim, (source, chosen), taken) in [
            (pulled("a:1", false), called, true),
            (pulled("a:1", true), called, true),
            (pulled("a:1", false), given, true),
            (pulled("a:1", true), given, true),
            // What its source is called: as with Docker, the last one that is called so.
            (pulled("oci:/x", false), called, true),
            (pulled("oci:/x", true), called, false),
            (pulled("oci:/x", false), given, false),
            (pulled("oci:/x", true), given, false),
            (pulled("a:1", false), made, false),
            (pulled("a:1", true), made, false),
            (Claim::own(false), made, false),
            (Claim::own(false), called, false),
            (Claim::own(true), given, true),
            (Claim { force: true, ..pulled("a:1", false) }, made, true),
        ] {
            let there = Origin { source: source.map(Into::into), chosen };
            assert_eq!(claim.beats(&there), taken, "{claim:?} of {there:?}");
        }
    }

    /// A service with one image, which is called `my`, and one kernel, which is good for nothing.
    async fn service(dir: &std::path::Path) -> (ImageService, ImageId) {
        let layout = Layout::resolve(|key| (key == "BANGER_HOME").then(|| dir.into()), 0).unwrap();
        let store = crate::store::Store::open(&dir.join("state.db")).unwrap();
        let service = ImageService::open(&layout, store, "/agent".into(), vec![], vec![], Limits::default()).unwrap();
        let (cancel, path) = (Cancel::default(), dir.join("my.ext4"));
        let job = Job { progress: &Silent, cancel: &cancel };
        let builder = RootfsBuilder::new(dir, banger_artifacts::rootfs::Limits::default(), &cancel).unwrap();
        builder.finish(&path, &Format::default(), &job).unwrap();
        let name = "my".parse().unwrap();
        let id = service.images.register(&name, &path, None, &job).unwrap().manifest.id;
        service.give_name(&name, &id, &Claim::own(false), &Operation::silent()).await.unwrap();
        std::fs::create_dir_all(layout.kernel(&kernel())).unwrap();
        (service, id)
    }

    fn kernel() -> KernelName {
        "k-1".parse().unwrap()
    }

    /// Waits until somebody waits to take something away: a writer that waits lets no reader in.
    async fn somebody_waits(service: &ImageService) {
        let waits = async {
            while service.custody.try_read().is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waits).await.expect("a deletion that waits");
    }

    #[tokio::test]
    async fn what_is_held_is_deleted_only_when_it_is_known_who_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let (service, id) = service(dir.path()).await;
        let mut vm: VmRow = sample("v");
        vm.spec.image_id = id.clone();
        let held = service.hold(&id, &kernel()).await.unwrap();
        let silent = Operation::silent();
        let ((), deleted) = tokio::join!(
            async {
                somebody_waits(&service).await;
                service.store.insert_vm(vm.clone()).await.unwrap();
                drop(held);
            },
            service.delete_image("my", &silent)
        );
        let refused = deleted.unwrap_err();
        assert!(refused.message.contains("in use by v"), "{refused}");
        service.store.delete_vm(&vm.id).await.unwrap();
        service.delete_image("my", &silent).await.unwrap();
        assert_eq!(service.hold(&id, &kernel()).await.unwrap_err().code, Code::Conflict);
        assert_eq!(service.store.image_names().await.unwrap(), []);
    }

    #[tokio::test]
    async fn who_deletes_an_image_that_somebody_changes_can_give_up_and_nothing_of_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (service, id) = service(dir.path()).await;
        let turn = service.images.turn(&id, &Cancel::default()).unwrap();
        let operation = Operation::silent();
        operation.cancel().cancel();
        let given_up = service.delete_image("my", &operation).await.unwrap_err();
        assert_eq!((given_up.code, service.resolve("my").await.unwrap()), (Code::Conflict, id));
        drop(turn);
        service.delete_image("my", &Operation::silent()).await.unwrap();
    }

    #[tokio::test]
    async fn a_kernel_is_deleted_only_when_it_is_known_who_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let (service, id) = service(dir.path()).await;
        let mut vm: VmRow = sample("v");
        (vm.spec.image_id, vm.spec.kernel) = (id.clone(), kernel());
        let held = service.hold(&id, &kernel()).await.unwrap();
        let (silent, name) = (Operation::silent(), kernel());
        let ((), deleted) = tokio::join!(
            async {
                somebody_waits(&service).await;
                service.store.insert_vm(vm.clone()).await.unwrap();
                drop(held);
            },
            service.delete_kernel(&name, false, &silent)
        );
        let refused = deleted.unwrap_err();
        assert!(refused.message.contains("in use by VM v"), "{refused}");
        service.store.delete_vm(&vm.id).await.unwrap();
        service.delete_kernel(&name, false, &silent).await.unwrap();
        let late = service.hold(&id, &name).await.unwrap_err();
        assert!(late.message.contains("kernel k-1 was deleted meanwhile"), "{late}");
    }

    #[tokio::test]
    async fn a_damaged_image_can_be_deleted_by_name_and_by_id() {
        let dir = tempfile::tempdir().unwrap();
        for by_name in [true, false] {
            let home = dir.path().join(by_name.to_string());
            std::fs::create_dir(&home).unwrap();
            let (service, id) = service(&home).await;
            let manifest = home.join("state/images").join(id.as_str()).join("manifest.json");
            std::fs::remove_file(&manifest).unwrap();
            std::fs::write(&manifest, "{").unwrap();
            let damaged = service.image(&"my".parse().unwrap(), None, &Operation::silent()).await.unwrap_err();
            assert!(damaged.hints.concat().contains(&format!("banger image delete {id}")), "{damaged}");
            let reference = if by_name { "my".to_owned() } else { id.as_str()[..8].to_owned() };
            service.delete_image(&reference, &Operation::silent()).await.unwrap();
            assert_eq!((service.images.ids().unwrap(), service.store.image_names().await.unwrap()), (vec![], vec![]));
        }
    }

    #[tokio::test]
    async fn a_lost_images_own_name_leads_to_no_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let (service, id) = service(dir.path()).await;
        let silent = Operation::silent();
        let [mine, usual] = ["mine", "usual:latest"].map(|name| name.parse::<ImageName>().unwrap());
        for (name, chosen) in [(&mine, true), (&usual, false)] {
            let claim = Claim { source: Some("registry.local/app:latest".into()), chosen, force: false };
            service.give_name(name, &id, &claim, &silent).await.unwrap();
            assert_eq!(service.proper_name(name).await.unwrap(), *name);
        }
        service.images.delete(&id, &Cancel::default()).unwrap();
        let (proper, image) = (service.proper_name(&mine).await, service.image(&mine, None, &silent).await);
        for lost in [proper.unwrap_err(), image.unwrap_err()] {
            assert_eq!(
                (lost.code, &*lost.message),
                (Code::Unavailable, "image mine was lost when this host went down")
            );
            assert!(lost.hints[0].contains("banger image pull registry.local/app:latest --name mine"), "{lost}");
        }
        // What its source is called comes from there again.
        assert_eq!(service.proper_name(&"usual".parse().unwrap()).await.unwrap(), usual);
        // Given up, it may mean something else.
        service.delete_image("mine", &silent).await.unwrap();
        assert_eq!(service.proper_name(&mine).await.unwrap().as_str(), "mine:latest");
        assert_eq!(service.delete_image("mine", &silent).await.unwrap_err().code, Code::NotFound);
    }

    #[tokio::test]
    async fn a_name_of_what_is_gone_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let (service, id) = service(dir.path()).await;
        let (name, silent) = ("my".parse().unwrap(), Operation::silent());
        let pulled = Claim { source: Some("a:1".into()), chosen: true, force: false };
        assert_eq!(service.may_take(&name, None, &pulled).await.unwrap_err().code, Code::Conflict);
        assert_eq!(service.may_take(&name, None, &Claim::own(false)).await.unwrap_err().code, Code::AlreadyExists);
        service.images.delete(&id, &Cancel::default()).unwrap();
        service.may_take(&name, None, &pulled).await.unwrap();
        let gone = service.give_name(&name, &id, &pulled, &silent).await.unwrap_err();
        assert!(gone.message.contains("was deleted meanwhile"), "{gone}");
    }
}
