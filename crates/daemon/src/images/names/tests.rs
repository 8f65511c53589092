//! Names and deletions of images, in a service with one of each.

use super::*;
use crate::store::{VmRow, tests::sample};
use banger_artifacts::{
    image::KernelChoice,
    job::{Cancel, Job, Silent},
    oci::Limits,
    rootfs::{Format, RootfsBuilder},
};
use banger_proto::layout::Layout;
use std::time::Duration;

#[test]
fn a_name_goes_to_what_it_was_given_for() {
    let pulled = |source: &str, chosen| Claim::pulled(source.into(), chosen, false);
    let (called, given, made) = ((Some("a:1"), false), (Some("a:1"), true), (None, true));
    for (claim, (source, chosen), taken) in [
        (pulled("a:1", false), called, true),
        (pulled("a:1", true), called, true),
        (pulled("a:1", false), given, true),
        (pulled("a:1", true), given, true),
        // Like Docker: the source's name means its last image.
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
        let there = Origin { source: source.map(Into::into), chosen, pinned: None };
        assert_eq!(claim.beats(&there), taken, "{claim:?} of {there:?}");
    }
}

/// Service with an image called `my` and an unusable kernel.
pub(in crate::images) async fn service(dir: &std::path::Path) -> (ImageService, ImageId) {
    let layout = Layout::resolve(|key| (key == "BANGER_HOME").then(|| dir.into()), 0).unwrap();
    let store = crate::store::Store::open(&dir.join("state.db")).unwrap();
    let service = ImageService::open(&layout, store, "/agent".into(), vec![], vec![], Limits::default()).unwrap();
    let (cancel, path) = (Cancel::default(), dir.join("my.ext4"));
    let job = Job { progress: &Silent, cancel: &cancel };
    let builder = RootfsBuilder::new(dir, banger_artifacts::rootfs::Limits::default(), &cancel).unwrap();
    builder.finish(&path, &Format::default(), &job).unwrap();
    let name = "my".parse().unwrap();
    let id = service.images.register(&name, &path, KernelChoice::Unchanged, &job).unwrap().manifest.id;
    service.give_name(&name, &id, &Claim::own(false), Word::None, &Operation::unwatched()).await.unwrap();
    std::fs::create_dir_all(layout.kernel(&kernel())).unwrap();
    (service, id)
}

fn turn(service: &ImageService, id: &ImageId) -> NameLock {
    service.images.lock(id, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap()
}

fn kernel() -> KernelName {
    "k-1".parse().unwrap()
}

/// Waits for a pending deletion: a waiting writer keeps readers out.
async fn somebody_waits(service: &ImageService) {
    let waits = async {
        while service.removal_lock.try_read().is_ok() {
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
    let silent = Operation::unwatched();
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
    let turn = turn(&service, &id);
    let operation = Operation::unwatched();
    operation.cancel().cancel();
    let given_up = service.delete_image("my", &operation).await.unwrap_err();
    assert_eq!((given_up.code, service.resolve("my").await.unwrap()), (Code::Conflict, id));
    drop(turn);
    service.delete_image("my", &Operation::unwatched()).await.unwrap();
}

#[tokio::test]
async fn nobody_waits_for_somebody_who_waits_to_delete_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let turn = turn(&service, &id);
    let (lines, mut heard) = tokio::sync::mpsc::channel(16);
    let (deletion, silent, kernel) = (Operation::watched(lines), Operation::unwatched(), kernel());
    let others = async {
        // The operation has reported that it waits.
        let line = tokio::time::timeout(Duration::from_secs(60), heard.recv()).await.expect("a word").unwrap();
        let line = String::from_utf8(line.to_vec()).unwrap();
        assert!(line.contains(&format!("waiting for somebody else's work on image {id}")), "{line}");
        let held = tokio::time::timeout(Duration::from_secs(60), service.hold(&id, &kernel)).await;
        drop(held.expect("who makes a VM of it").unwrap());
        let (name, own) = ("another".parse().unwrap(), Claim::own(false));
        let named = service.give_name(&name, &id, &own, Word::None, &silent);
        tokio::time::timeout(Duration::from_secs(60), named).await.expect("who names it").unwrap();
        drop(turn);
    };
    let (deleted, ()) = tokio::join!(service.delete_image("my", &deletion), others);
    deleted.unwrap();
    // An image named meanwhile stays.
    assert_eq!(service.resolve("another").await.unwrap(), id);
    assert_eq!(service.resolve("my").await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn nobody_waits_for_somebody_who_waits_to_change_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let (silent, kernel) = (Operation::unwatched(), kernel());
    let (name, claim) = ("my".parse().unwrap(), Claim::own(false));
    let turn = turn(&service, &id);
    let removal_lock = service.claim(&name, &id, &claim).await.unwrap();
    let recommending = service.recommend_kernel(&id, &kernel, (&name, &claim), &silent);
    let busy = tokio::time::timeout(Duration::from_secs(60), recommending).await.expect("nothing is waited for");
    assert!(busy.unwrap().is_none());
    drop(turn);
    let image = service.recommend_kernel(&id, &kernel, (&name, &claim), &silent).await.unwrap();
    assert_eq!(image.unwrap().manifest.kernel, Some(kernel));
    drop(removal_lock);
}

#[tokio::test]
async fn a_kernel_is_deleted_only_when_it_is_known_who_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let mut vm: VmRow = sample("v");
    (vm.spec.image_id, vm.spec.kernel) = (id.clone(), kernel());
    let held = service.hold(&id, &kernel()).await.unwrap();
    let (silent, name) = (Operation::unwatched(), kernel());
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
        let damaged = service.image(&"my".parse().unwrap(), None, &Operation::unwatched()).await.unwrap_err();
        assert!(damaged.hints.concat().contains(&format!("banger image delete {id}")), "{damaged}");
        let reference = if by_name { "my".to_owned() } else { id.as_str()[..8].to_owned() };
        service.delete_image(&reference, &Operation::unwatched()).await.unwrap();
        assert_eq!((service.images.ids().unwrap(), service.store.image_names().await.unwrap()), (vec![], vec![]));
    }
}

#[tokio::test]
async fn an_image_without_a_name_is_meant_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let silent = Operation::unwatched();
    service.store.unname_image(&id).await.unwrap();
    let typed: ImageName = id.as_str().parse().unwrap();
    service.ensure_image_known(&typed).await.unwrap();
    for length in [1, 7, id.as_str().len()] {
        let part: ImageName = id.as_str()[..length].parse().unwrap();
        service.ensure_image_known(&part).await.unwrap();
        assert_eq!(service.proper_name(&part).await.unwrap(), typed, "{part}");
        assert_eq!(service.image(&part, None, &silent).await.unwrap().manifest.id, id, "{part}");
        assert_eq!(service.resolve(part.as_str()).await.unwrap(), id, "{part}");
    }
    // A longer text, or one that says it is a tag, means something else.
    let digit = if id.as_str().ends_with('0') { "1" } else { "0" };
    for other in [format!("{}{digit}", &id.as_str()[..15]), format!("{}:latest", &id.as_str()[..7])] {
        let familiar = format!("{}:latest", other.trim_end_matches(":latest"));
        assert_eq!(service.proper_name(&other.parse().unwrap()).await.unwrap().as_str(), familiar);
    }
    service.delete_image(id.as_str(), &silent).await.unwrap();
    assert_eq!(service.proper_name(&typed).await.unwrap().as_str(), format!("{id}:latest"));
}

#[tokio::test]
async fn what_begins_an_id_is_no_name_of_an_image_and_no_catalogs() {
    let dir = tempfile::tempdir().unwrap();
    let (_, id) = service(dir.path()).await;
    let typed: ImageName = id.as_str()[..7].parse().unwrap();
    let catalog = dir.path().join("catalog.json");
    let entry = serde_json::json!({"name": typed, "arch": std::env::consts::ARCH,
        "sources": [{"type": "oci", "ref": "127.0.0.1:1/app:v1"}]});
    std::fs::write(&catalog, serde_json::json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
    let layout = Layout::resolve(|key| (key == "BANGER_HOME").then(|| dir.path().into()), 0).unwrap();
    let store = crate::store::Store::open(&dir.path().join("state.db")).unwrap();
    let catalogs = vec![crate::config::CatalogLocation::Path(catalog)];
    let service = ImageService::open(&layout, store, "/agent".into(), vec![], catalogs, Limits::default()).unwrap();
    assert_eq!(service.proper_name(&typed).await.unwrap(), typed, "the catalog's");
    let longer: ImageName = id.as_str()[..8].parse().unwrap();
    assert_eq!(service.proper_name(&longer).await.unwrap().as_str(), id.as_str());
    service.give_name(&longer, &id, &Claim::own(false), Word::None, &Operation::unwatched()).await.unwrap();
    assert_eq!(service.proper_name(&longer).await.unwrap(), longer, "a name is a name");

    // An ambiguous prefix means none of the images, and no catalog entry either.
    let images = layout.images();
    let other = format!("{}{}", &id.as_str()[..15], if id.as_str().ends_with('0') { "1" } else { "0" });
    std::fs::create_dir(images.join(&other)).unwrap();
    let several: ImageName = id.as_str()[..9].parse().unwrap();
    for refused in
        [service.proper_name(&several).await.unwrap_err(), service.resolve(several.as_str()).await.unwrap_err()]
    {
        assert_eq!(refused.code, Code::Invalid);
        assert!(refused.message.contains("begins the ids of several images"), "{refused}");
    }
    assert_eq!(service.proper_name(&typed).await.unwrap(), typed, "still the catalog's");
}

#[tokio::test]
async fn no_catalog_is_asked_about_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::resolve(|key| (key == "BANGER_HOME").then(|| dir.path().into()), 0).unwrap();
    let store = crate::store::Store::open(&dir.path().join("state.db")).unwrap();
    // It cannot be read, and so hides what a name would mean.
    let catalogs = vec![crate::config::CatalogLocation::Path(dir.path().join("none.json"))];
    let service = ImageService::open(&layout, store, "/agent".into(), vec![], catalogs, Limits::default()).unwrap();
    for text in ["oci:/x", "oci-archive:/x.tar", "docker-archive:/x.tar:app"] {
        let typed = text.parse().unwrap();
        assert_eq!(service.proper_name(&typed).await.unwrap(), typed);
        service.ensure_image_known(&typed).await.unwrap();
    }
    let typed = "alpine".parse().unwrap();
    assert_eq!(service.proper_name(&typed).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(service.ensure_image_known(&typed).await.unwrap_err().code, Code::Unavailable);
}

#[tokio::test]
async fn a_kernel_that_is_asked_for_is_chosen_whatever_was_recommended_before() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let name = "my".parse().unwrap();
    let [first, second]: [KernelName; 2] = ["first-1", "second-1"].map(|name| name.parse().unwrap());
    let claim = Claim::own(false);
    for (word, kernel, chosen, said) in [
        (Word::None, None, false, None),
        (Word::Offered(&first), Some(&first), false, Some("recommends kernel first-1 now, as its catalog does")),
        (Word::Asked(&first), Some(&first), true, None),
        (
            Word::Asked(&second),
            Some(&second),
            true,
            Some("recommends kernel second-1 now, under all its names, and kernel first-1 before"),
        ),
        (Word::Asked(&second), Some(&second), true, None),
        (Word::Offered(&first), Some(&second), true, Some("goes on recommending kernel second-1, as you chose")),
        (Word::None, Some(&second), true, None),
    ] {
        let (lines, mut heard) = tokio::sync::mpsc::channel(16);
        let operation = Operation::watched(lines);
        let image = service.give_name(&name, &id, &claim, word, &operation).await.unwrap();
        assert_eq!((image.manifest.kernel.as_ref(), image.manifest.kernel_chosen), (kernel, chosen), "{word:?}");
        let line = heard.try_recv().ok().map(|line| String::from_utf8(line.to_vec()).unwrap());
        assert!(
            line.as_deref().is_some_and(|line| said.is_some_and(|said| line.contains(said)))
                || (line.is_none() && said.is_none()),
            "{word:?}: {line:?}"
        );
    }
}

#[tokio::test]
async fn a_name_that_looks_like_an_id_is_given_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let name = "0123456789abcdef".parse().unwrap();
    for claim in [Claim::own(true), Claim::pulled("a:1".into(), true, true)] {
        let refused = service.give_name(&name, &id, &claim, Word::None, &Operation::unwatched()).await.unwrap_err();
        assert!(refused.code == Code::Invalid && refused.message.contains("ids look like"), "{refused}");
    }
}

#[tokio::test]
async fn a_name_that_was_given_stays_with_an_image_that_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (service, here) = service(dir.path()).await;
    let (name, silent) = ("mine".parse().unwrap(), Operation::unwatched());
    let pulled = |chosen, force| Claim::pulled("a:1".into(), chosen, force);
    let lost: ImageId = "0123456789abcdef".parse().unwrap();
    for (origin, claim, is_taken) in [
        // The tag has moved.
        (Some(("a:1", true)), pulled(true, false), false),
        (Some(("a:1", true)), pulled(true, true), true),
        (Some(("a:1", true)), Claim::own(false), false),
        (Some(("a:1", false)), pulled(false, false), true),
        (Some(("a:1", false)), pulled(true, false), true),
        // It was made here, and is made again.
        (None, Claim::own(false), true),
        (None, pulled(true, false), false),
    ] {
        let (source, chosen) = origin.map_or((None, true), |(source, chosen)| (Some(source.to_owned()), chosen));
        let origin = Origin { source, chosen, pinned: None };
        service.store.unname(&name).await.unwrap();
        service.store.name_image(&name, &lost, origin.clone()).await.unwrap();
        service.check_name_free(&name, None, &claim).await.expect("it may be the lost one that comes back");
        let given = service.give_name(&name, &here, &claim, Word::None, &silent).await;
        let meant = service.store.name_origin(&name).await.unwrap().unwrap().0;
        assert_eq!(meant == here, is_taken, "{origin:?} {claim:?}");
        if let Err(refused) = given {
            assert!(!is_taken && refused.code == Code::Conflict, "{refused}");
            assert!(refused.message.contains("image mine was lost"), "{refused}");
            assert!(refused.hints.concat().contains("--force"), "{refused:?}");
        }
    }
    service.store.name_image(&name, &here, Origin { source: None, chosen: true, pinned: None }).await.unwrap();
    service.images.delete(&here, &Cancel::default()).unwrap();
    let gone = service.give_name(&name, &here, &pulled(true, false), Word::None, &silent).await.unwrap_err();
    assert!(gone.message.contains("was deleted meanwhile"), "{gone}");
}
