//! What a bundle says of the host it was packed on, and what of an image here outlives one.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    registry::{Content, Host, reference},
    sources::{bundle, entry, one_image, pull, with_manifest},
};
use crate::{sha256, web::Server};
use banger_artifacts::{
    image::{CatalogEntry, Image, PullRequest, Source},
    job::{Job, Silent},
};
use banger_proto::name::ImageId;
use std::{fs, os::unix::fs::PermissionsExt as _};

/// Packs an image, and takes it away; who serves the bundle, and an entry that offers it.
fn published(host: &Host, id: &ImageId) -> (Server, CatalogEntry) {
    let file = host.dir.path().join("app.tar.zst");
    let job = Job { progress: &Silent, cancel: &host.cancel };
    host.store.bundle(id, &file, &job).unwrap();
    let bytes = fs::read(&file).unwrap();
    let server = Server::serving(bytes.clone());
    let entry = entry(&[bundle(&server, &sha256(&bytes), bytes.len())]);
    (server, entry)
}

/// An image that is the only thing on a host, from a registry.
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
fn an_image_of_a_file_that_a_bundle_makes_whole_is_on_the_disk_at_once() {
    let (_content, _registry, host, image) = pulled();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let own = host.dir.path().join("own.ext4");
    fs::copy(&image.rootfs, &own).unwrap();
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let registered = host.store.register(&"own".parse().unwrap(), &own, None, &job).unwrap().manifest.id;
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
