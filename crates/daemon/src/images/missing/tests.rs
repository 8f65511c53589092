//! Messages about lost images, and which sources may replace them.

use super::*;
use crate::{
    config::CatalogLocation,
    images::{
        names::{Claim, tests::service},
        recommended::Word,
    },
    operation::Operation,
    store::{Pinned, VmRow, tests::sample},
};
use banger_artifacts::job::Cancel;
use serde_json::{Value, json};
use std::net::TcpListener;

/// Failure for a bundle of `entry` that would replace the image, after all catalogs were asked.
async fn missed(store: &Store, offers: &Arc<ImageOffers>, id: &ImageId, entry: &ImageName) -> Option<Failure> {
    let dependents = Dependents::new(store.clone(), Arc::clone(offers), entry.clone());
    dependents.ask(id).await.unwrap();
    match dependents.look_up(id).await.unwrap() {
        Dependence::None => None,
        Dependence::Depends(failure) => Some(*failure),
        Dependence::Unknown => panic!("everybody was asked"),
    }
}

#[tokio::test]
async fn a_lost_images_own_name_leads_to_no_strangers() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let silent = Operation::unwatched();
    let [mine, usual] = ["mine", "usual:latest"].map(|name| name.parse::<ImageName>().unwrap());
    for (name, chosen) in [(&mine, true), (&usual, false)] {
        let claim = Claim::pulled("registry.local/app:latest".into(), chosen, false);
        service.give_name(name, &id, &claim, Word::None, &silent).await.unwrap();
        assert_eq!(service.proper_name(name).await.unwrap(), *name);
    }
    service.images.delete(&id, &Cancel::default()).unwrap();
    let (proper, image) = (service.proper_name(&mine).await, service.image(&mine, None, &silent).await);
    let (shown, bundled) = (service.show_image("mine").await, service.resolve("mine").await);
    for lost in [proper.unwrap_err(), image.unwrap_err(), shown.unwrap_err(), bundled.unwrap_err()] {
        assert_eq!((lost.code, &*lost.message), (Code::Unavailable, "image mine was lost when this host went down"));
        assert!(lost.hints[0].contains("banger image pull registry.local/app:latest --name mine"), "{lost}");
    }
    // A reference means the lost image, whoever gave it the name.
    assert_eq!(
        service.resolve("usual").await.unwrap_err().message,
        "image usual:latest was lost when this host went down"
    );
    // A name given by the source leads there again.
    assert_eq!(service.proper_name(&"usual".parse().unwrap()).await.unwrap(), usual);
    service.ensure_deletable("mine").await.unwrap();
    // Once deleted, the name may mean something else.
    service.delete_image("mine", &silent).await.unwrap();
    assert_eq!(service.proper_name(&mine).await.unwrap().as_str(), "mine:latest");
    assert_eq!(service.delete_image("mine", &silent).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_lost_image_of_a_catalog_comes_from_a_catalog_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let silent = Operation::unwatched();
    let [offered, gone] = ["debian-bookworm", "given-up"].map(|name| name.parse::<ImageName>().unwrap());
    for name in [&offered, &gone] {
        service
            .give_name(name, &id, &Claim::pulled(Origin::of_catalog(name), false, false), Word::None, &silent)
            .await
            .unwrap();
    }
    service.images.delete(&id, &Cancel::default()).unwrap();
    assert_eq!(service.proper_name(&offered).await.unwrap(), offered);
    let lost = service.proper_name(&gone).await.unwrap_err();
    assert!(lost.message.contains("image given-up was lost") && lost.hints[0].contains("[[image_catalog]]"), "{lost}");
    // For a VM that uses the image the failure has its name, not its id.
    service.delete_image("my", &silent).await.unwrap();
    service.delete_image("given-up", &silent).await.unwrap();
    let lost = service.image_by_id(&id, &silent).await.unwrap_err();
    assert!(lost.message.contains("image debian-bookworm was lost"), "{lost}");
    service.delete_image("debian-bookworm", &silent).await.unwrap();
    assert_eq!(service.image_by_id(&id, &silent).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_vm_whose_image_is_lost_hears_how_to_get_that_very_image() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let silent = Operation::unwatched();
    service.delete_image("my", &silent).await.unwrap();
    let name = "app:v1".parse().unwrap();
    let (tag, exact) = ("registry.local/app:v1", "registry.local/app:v1@sha256:00");
    let pinned = |reference: &str, platform: Option<&str>| {
        Some(Pinned { reference: reference.into(), platform: platform.map(|platform| platform.parse().unwrap()) })
    };
    for (source, pinned, words) in [
        // The hint keeps the name: the reference alone would name the image after its digest.
        (tag, pinned(exact, None), "registry.local/app:v1@sha256:00 --name app:v1"),
        (
            tag,
            pinned(exact, Some("linux/arm/v7")),
            "registry.local/app:v1@sha256:00 --platform linux/arm/v7 --name app:v1",
        ),
        // An image from a file keeps its name.
        ("oci:/a:v1", pinned("oci:/a:v1", Some("linux/arm64")), "oci:/a:v1 --platform linux/arm64"),
        ("oci:/a:v1", None, "oci:/a:v1"),
    ] {
        let origin = Origin { source: Some(source.into()), chosen: false, pinned };
        service.store.name_image(&name, &id, origin).await.unwrap();
        let lost = service.image_by_id(&id, &silent).await.unwrap_err();
        let [again, _] = &lost.hints[..] else { panic!("{lost}") };
        assert_eq!(*again, format!("`banger image pull {words}` brings it back"));
    }
}

#[tokio::test]
async fn who_relies_on_a_lost_image_takes_nobodys_word_but_that_of_where_it_was_from() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let silent = Operation::unwatched();
    let [offered, other] = ["offered", "other"].map(|name| name.parse::<ImageName>().unwrap());
    let source = Origin::of_catalog(&offered);
    service.give_name(&offered, &id, &Claim::pulled(source, false, false), Word::None, &silent).await.unwrap();
    let missed = async |entry| missed(&service.store, &service.image_offers, &id, entry).await;
    // It was also made on this host.
    let made = missed(&offered).await.unwrap();
    assert!(made.hints[0].contains("banger image build my"), "{made}");
    service.delete_image("my", &silent).await.unwrap();
    let mut vm: VmRow = sample("v");
    vm.spec.image_id = id.clone();
    service.store.insert_vm(vm.clone()).await.unwrap();
    assert!(missed(&offered).await.is_none(), "it is the catalog's alone");
    assert!(missed(&other).await.unwrap().hints[0].contains("banger image pull offered"));
    service.store.unname_image(&id).await.unwrap();
    let unnamed = missed(&offered).await.unwrap();
    let [believed, given_up] = &unnamed.hints[..] else { panic!("{unnamed}") };
    assert!(believed.contains("`banger image pull --force offered` takes the bundle's word"), "{unnamed}");
    assert!(given_up.contains("banger vm delete v"), "{unnamed}");
    service.store.delete_vm(&vm.id).await.unwrap();
    assert!(missed(&offered).await.is_none());
}

#[tokio::test]
async fn of_two_bundles_of_a_lost_image_neither_keeps_the_other_from_bringing_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let silent = Operation::unwatched();
    let [one, two, built, strange] = ["one", "two", "built", "strange"].map(|name| name.parse::<ImageName>().unwrap());
    let bundle = json!({"type": "bundle", "url": "https://x.example/a.tar.zst", "sha256": "0".repeat(64), "size": 1});
    let recipe = json!({"type": "mmdebstrap", "suite": "bookworm"});
    let later = json!({"type": "teleport", "url": "https://x.example/a"});
    let offer = |name: &ImageName, sources: &[&Value]| json!({"name": name, "arch": std::env::consts::ARCH, "sources": sources});
    let entries = [
        offer(&one, &[&bundle]),
        offer(&two, &[&bundle]),
        offer(&built, &[&bundle, &recipe]),
        offer(&strange, &[&bundle, &later]),
    ];
    let catalog = dir.path().join("catalog.json");
    std::fs::write(&catalog, json!({"version": 1, "entries": entries}).to_string()).unwrap();
    let offers = Arc::new(ImageOffers::new(vec![CatalogLocation::Path(catalog.clone())]));
    let name = async |name: &ImageName| {
        let claim = Claim::pulled(Origin::of_catalog(name), false, false);
        service.give_name(name, &id, &claim, Word::None, &silent).await.unwrap();
    };
    let missed = async |entry| missed(&service.store, &offers, &id, entry).await;
    name(&one).await;
    name(&two).await;
    service.delete_image("my", &silent).await.unwrap();
    let mut vm: VmRow = sample("v");
    vm.spec.image_id = id.clone();
    service.store.insert_vm(vm).await.unwrap();
    for entry in [&one, &two] {
        assert!(missed(entry).await.is_none(), "{entry}");
    }
    // An image that can be built anew has settings of its own, and so may one in a catalog that only a later banger can
    // read.
    for other in [&built, &strange] {
        name(other).await;
        assert!(missed(&one).await.unwrap().hints[0].contains(&format!("`banger image pull {other}` brings it back")));
        assert!(missed(other).await.is_none());
        service.store.unname(other).await.unwrap();
    }
    // So may one in a catalog that cannot be read now.
    std::fs::remove_file(&catalog).unwrap();
    assert!(missed(&one).await.unwrap().hints[0].contains("`banger image pull two` brings it back"));
}

#[tokio::test]
async fn who_asks_a_catalog_about_a_lost_image_can_give_up() {
    let dir = tempfile::tempdir().unwrap();
    let (service, id) = service(dir.path()).await;
    let entry: ImageName = "offered".parse().unwrap();
    let claim = Claim::pulled(Origin::of_catalog(&entry), false, false);
    service.give_name(&entry, &id, &claim, Word::None, &Operation::unwatched()).await.unwrap();
    service.delete_image("my", &Operation::unwatched()).await.unwrap();
    // It accepts the connection and does not answer.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let catalog = format!("http://{}/images.json", server.local_addr().unwrap());
    let offers = Arc::new(ImageOffers::new(vec![CatalogLocation::Url(catalog.parse().unwrap())]));
    let other = Dependents::new(service.store.clone(), offers, "other".parse().unwrap());
    let (dependents, runtime, stop) = (Arc::new(other), Handle::current(), CancellationToken::new());
    assert!(matches!(dependents.look_up(&id).await.unwrap(), Dependence::Unknown));
    let blocking_dependents = BlockingDependents { dependents: Arc::clone(&dependents), runtime, stop: stop.clone() };
    let asked = tokio::task::spawn_blocking(move || {
        (blocking_dependents.is_relied_on(&id).unwrap(), blocking_dependents.ask(&id))
    });
    let _asking = tokio::task::spawn_blocking(move || server.accept().unwrap().0).await.unwrap();
    stop.cancel();
    let (known, outcome) = asked.await.unwrap();
    assert_eq!((known, outcome.unwrap_err().to_string().as_str()), (None, "it was given up"));
}
