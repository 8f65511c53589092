//! Tests of bundles: what a bundle tells about the host it was packed on, and what of an image survives packing.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    registry::{Content, Host, chain, reference},
    sources::{bundle, entry, one_image, pull, pull_unless, with_manifest},
};
use crate::{sha256, web::Server};
use banger_artifacts::{
    image::{CatalogEntry, Image, ImageError, KernelChoice, PullRequest, Reliance, Source},
    job::{Job, Silent},
};
use banger_proto::name::{ImageId, KernelName};
use banger_testkit::wait_until;
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

/// Packs an image and deletes it. Returns the server of the bundle, and a catalog entry that offers it.
fn published(host: &Host, id: &ImageId) -> (Server, CatalogEntry) {
    let file = host.dir.path().join("app.tar.zst");
    let job = Job { progress: &Silent, cancel: &host.cancel };
    host.store.bundle(id, &file, &job).unwrap();
    let bytes = fs::read(&file).unwrap();
    let server = Server::serving(bytes.clone());
    let entry = entry(&[bundle(&server, &sha256(&bytes), bytes.len())]);
    (server, entry)
}

/// Pulls an image, the only one on its host, from a registry.
fn pulled() -> (Content, Server, Host, Image) {
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    let image = host.image(&reference(&registry, "v1"));
    (content, registry, host, image)
}

#[test]
fn a_bundle_does_not_say_what_its_image_is_called_nor_where_it_came_from() {
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let request = PullRequest {
        source: reference(&registry, "v1").parse().unwrap(),
        platform: "linux/amd64".parse().unwrap(),
        name: "registry.corp:5000/secret/app:v1".parse().unwrap(),
        kernel: None,
        kernel_chosen: false,
    };
    let image = host.store.pull_oci(&host.registries, &request, &job).unwrap().image;
    let file = host.dir.path().join("app.tar.zst");
    let written = host.store.bundle(&image.manifest.id, &file, &job).unwrap();
    assert_eq!(written.entry["name"], "app:v1");
    with_manifest(&fs::read(&file).unwrap(), |manifest| {
        let said = manifest.to_string();
        assert!(!["corp", "secret", "127.0.0.1"].iter().any(|part| said.contains(part)), "{said}");
    });
}

#[test]
fn a_kernel_that_was_chosen_for_a_bundle_stays_when_the_image_turns_out_to_be_another_ones() {
    let (_content, registry, host, image) = pulled();
    let (_server, mut entry) = published(&host, &image.manifest.id);
    for chosen in [true, false] {
        host.store.delete(&image.manifest.id, &host.cancel).unwrap();
        entry.kernel_chosen = chosen;
        let bundled = pull(&host, &entry).unwrap().manifest;
        assert_eq!((bundled.kernel, bundled.kernel_chosen), (entry.kernel.clone(), chosen));
        let back = host.image(&reference(&registry, "v1")).manifest;
        assert_eq!((&back.id, back.kernel.is_some()), (&image.manifest.id, chosen));
        assert_eq!(back.also.len(), 1, "it is known by both");
    }
}

#[test]
fn whose_word_a_kernel_is_is_known_of_an_image_from_a_registry_too() {
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    for chosen in [true, false] {
        let mut entry = entry(&[json!({"type": "oci", "ref": reference(&registry, "v1")})]);
        (entry.kernel, entry.kernel_chosen) = (Some("mine-1".parse().unwrap()), chosen);
        let manifest = pull(&host, &entry).unwrap().manifest;
        assert_eq!((manifest.kernel, manifest.kernel_chosen), (entry.kernel, chosen));
        host.store.delete(&manifest.id, &host.cancel).unwrap();
    }
}

/// Simulates a disk that refuses the image once it was written.
fn refuse(image: &Image) {
    let mark = image.rootfs.with_file_name(".unsynced");
    let synced = || if mark.exists() { Err("it is marked".to_owned()) } else { Ok(()) };
    wait_until(Duration::from_secs(60), "an image on the disk", synced);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&mark, format!("failed {boot}")).unwrap();
}

#[test]
fn a_kernel_that_was_chosen_stays_when_the_image_comes_again_for_one_that_the_disk_refused() {
    let (_content, registry, host, image) = pulled();
    let (_server, offer) = published(&host, &image.manifest.id);
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let [mine, theirs]: [KernelName; 2] = ["mine-1", "theirs-1"].map(|name| name.parse().unwrap());
    let offered = |kernel: &KernelName, chosen| {
        let entry = CatalogEntry { kernel: Some(kernel.clone()), kernel_chosen: chosen, ..offer.clone() };
        pull(&host, &entry).unwrap_or_else(|error| panic!("{}", chain(&error)))
    };
    let from_registry = |kernel: Option<&KernelName>| {
        let (source, kernel) = (reference(&registry, "v1").parse().unwrap(), kernel.cloned());
        let (platform, name) = ("linux/amd64".parse().unwrap(), "app".parse().unwrap());
        let job = Job { progress: &Silent, cancel: &host.cancel };
        let pulled = host.store.pull_oci(
            &host.registries,
            &PullRequest { source, platform, name, kernel, kernel_chosen: false },
            &job,
        );
        pulled.unwrap().image
    };
    let has = |image: &Image, kernel: Option<&KernelName>, chosen: bool| {
        assert_eq!((image.manifest.kernel.as_ref(), image.manifest.kernel_chosen), (kernel, chosen));
        assert_eq!(host.store.get(&image.manifest.id).unwrap(), *image);
        refuse(image);
    };
    // What the catalog says of it is nobody's choice here, and goes with what was refused.
    has(&offered(&theirs, false), Some(&theirs), false);
    has(&from_registry(None), None, false);
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    // What was chosen stays, wherever the image comes from, until something else is chosen.
    has(&offered(&mine, true), Some(&mine), true);
    has(&offered(&theirs, false), Some(&mine), true);
    has(&offered(&theirs, true), Some(&theirs), true);
    has(&from_registry(None), Some(&theirs), true);
    has(&from_registry(Some(&mine)), Some(&mine), false);
    has(&from_registry(None), Some(&mine), false);
}

/// Reliance whose answer is unknown until it was asked; runs something while it is asked.
struct Asks<'a> {
    host: &'a Host,
    meanwhile: &'a dyn Fn(),
    answer: bool,
    asked: Cell<u32>,
    turns: RefCell<Vec<bool>>,
}

impl Reliance for Asks<'_> {
    fn is_relied_on(&self, _: &ImageId) -> io::Result<Option<bool>> {
        Ok((self.asked.get() > 0).then_some(self.answer))
    }

    fn ask(&self, id: &ImageId) -> io::Result<()> {
        self.asked.set(self.asked.get() + 1);
        self.turns.borrow_mut().push(self.host.store.try_lock(id).unwrap().is_some());
        (self.meanwhile)();
        if self.host.cancel.is_cancelled() { Err(io::Error::other("it was given up")) } else { Ok(()) }
    }
}

#[test]
fn nobody_waits_for_an_image_while_it_is_asked_who_relies_on_it() {
    let (_content, registry, host, image) = pulled();
    let (_server, entry) = published(&host, &image.manifest.id);
    let comes = || drop(host.image(&reference(&registry, "v1")));
    let asking = |meanwhile: &dyn Fn(), answer: bool| {
        host.store.delete(&image.manifest.id, &host.cancel).unwrap();
        let (asked, turns) = (Cell::default(), RefCell::default());
        let asks = Asks { host: &host, meanwhile, answer, asked, turns };
        let outcome = pull_unless(&host, &entry, &asks);
        assert_eq!(asks.turns.into_inner(), [true], "it was asked once, and the image was free meanwhile");
        outcome
    };
    assert!(matches!(asking(&|| (), false).unwrap().manifest.source, Source::Bundle(_)));
    let missed = asking(&|| (), true).unwrap_err();
    assert!(matches!(missed.root(), ImageError::Missed { .. }), "{}", chain(&missed));
    // What came in that time is the image, whoever relies on it.
    assert!(matches!(asking(&comes, true).unwrap().manifest.source, Source::Oci(_)));
    let given_up = asking(&|| host.cancel.cancel(), false).unwrap_err();
    assert!(given_up.is_cancelled(), "{}", chain(&given_up));
    host.nothing_left();
}

#[test]
fn an_image_of_a_file_that_a_bundle_makes_whole_is_on_the_disk_at_once() {
    let (_content, _registry, host, image) = pulled();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let own = host.dir.path().join("own.ext4");
    fs::copy(&image.rootfs, &own).unwrap();
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let registered =
        host.store.register(&"own".parse().unwrap(), &own, KernelChoice::Unchanged, &job).unwrap().manifest.id;
    let promoted = host.store.promote(&registered, &job).unwrap();
    let (_server, entry) = published(&host, &promoted.manifest.id);
    fs::set_permissions(&promoted.rootfs, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(&promoted.rootfs).unwrap().set_len(4096).unwrap();
    let whole = pull(&host, &entry).unwrap();
    assert!(matches!(whole.manifest.source, Source::Promoted(_)), "{:?}", whole.manifest.source);
    assert_eq!(whole.manifest.id, image.manifest.id);
    // What a file was made of cannot be had again.
    assert!(!whole.rootfs.with_file_name(".unsynced").exists());
    assert_eq!(fs::metadata(&whole.rootfs).unwrap().len(), image.manifest.size_bytes);
}
