//! Tests of work on files, killed at every step or without space: archives, catalogs' bundles, promoted images, written
//! bundles.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    archives::{archive, layout_of},
    child::{self, BUNDLE, stored},
    interrupted::noise,
    layers::{Layer, gzip},
    registry::{Content, Host, chain, names, reference},
};
use crate::{ext4::Image, full::Tmpfs, web::Server};
use banger_artifacts::{
    image::{Depth, ImageError, KernelChoice},
    job::{Cancel, Job, Silent},
};
use banger_testkit::require;
use serde_json::json;
use std::{fs, path::Path};

/// Kills `work` at each of its steps and repeats it: afterwards the result exists, and nothing of the killed run.
fn killed_at(steps: &[&str], root: &Path, work: &str, expected: &[String]) {
    let images = root.join("images");
    drop(Host::within(root));
    for step in steps {
        let before = stored(&images);
        let mut killed = child::start(root, work, step);
        assert_eq!(killed.next_line().as_deref(), Some("stopped"), "{work}: {step}");
        drop(killed);
        let mut again = child::start(root, work, "");
        let made = again.next_line().unwrap_or_else(|| panic!("{work} after {step}"));
        again.assert_success();
        assert_eq!(stored(&images), expected, "{work}: {step}");
        // From the beginning for the next step.
        let made = made.strip_prefix("done ").unwrap().parse().unwrap();
        let store = Host::within(root).store;
        store.verify(&made, Depth::Full, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap();
        if !before.contains(&made.to_string()) {
            store.delete(&made, &Cancel::default()).unwrap();
        }
    }
}

/// Creates an image in a store of its own.
fn pulled() -> (Host, banger_artifacts::image::Image) {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let (host, server) = (Host::new(), content.serve());
    let image = host.image(&reference(&server, "v1"));
    (host, image)
}

#[test]
fn an_archive_that_is_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.tar.gz");
    fs::write(&path, gzip(&archive(&layout_of(&[("v1", vec![Layer::new().file("a", "a").done()])])))).unwrap();
    let source = format!("oci-archive:{}", path.display());
    let expected = [Host::new().image(&source).manifest.id.to_string()];
    let steps = ["asking for", "unpacking the archive", "getting 1 layer", "writing the image", "saving the image"];
    killed_at(&steps, dir.path(), &source, &expected);
}

#[test]
fn a_catalogs_bundle_that_is_pulled() {
    let (host, image) = pulled();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.tar.zst");
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let written = host.store.bundle(&image.manifest.id, &file, &job).unwrap();
    let server = Server::serving(fs::read(&file).unwrap());
    let mut entry = written.entry;
    entry["sources"][0]["url"] = server.url("/app.tar.zst").into();
    let catalog = dir.path().join("catalog.json");
    fs::write(&catalog, json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
    let steps = ["downloading the image", "hashing the image", "saving the image"];
    killed_at(&steps, dir.path(), &format!("catalog {}", catalog.display()), &[image.manifest.id.to_string()]);
}

#[test]
fn a_catalogs_image_of_a_registry_that_is_pulled() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "a").done()]);
    let server = content.serve();
    let dir = tempfile::tempdir().unwrap();
    let catalog = dir.path().join("catalog.json");
    let source = json!({"type": "oci", "ref": reference(&server, "v1"), "platform": "linux/amd64"});
    let entry = json!({"name": "app", "arch": std::env::consts::ARCH, "sources": [source]});
    fs::write(&catalog, json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
    let expected = [Host::new().image(&reference(&server, "v1")).manifest.id.to_string()];
    let steps = ["asking for", "getting 1 layer", "writing the image", "saving the image"];
    killed_at(&steps, dir.path(), &format!("catalog {}", catalog.display()), &expected);
}

#[test]
fn an_image_that_is_promoted() {
    let (host, image) = pulled();
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("my.ext4");
    fs::copy(&image.rootfs, &own).unwrap();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let registered =
        Host::within(dir.path()).store.register(&"my".parse().unwrap(), &own, KernelChoice::Unchanged, &job).unwrap();
    let registered = registered.manifest.id.to_string();
    let mut expected = [registered.clone(), image.manifest.id.to_string()];
    expected.sort();
    killed_at(&["hashing the image", "saving the image"], dir.path(), &format!("promote {registered}"), &expected);
}

#[test]
fn what_finds_no_room_says_so_and_leaves_nothing() {
    if !require("mount") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layers = [Layer::new().file("noise", noise(8 << 20)).done()];
    let path = dir.path().join("app.tar.gz");
    fs::write(&path, gzip(&archive(&layout_of(&[("v1", layers.to_vec())])))).unwrap();
    let source = format!("oci-archive:{}", path.display());
    let host = Host::new();
    let image = host.image(&source);
    let small = |name: &str| Tmpfs::mount(&dir.path().join(name), "4m");
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let full = |error: ImageError| assert!(error.is_out_of_space(), "{}", chain(&error));

    // An archive that has to be unpacked before anything can be looked up in it.
    let place = small("archive");
    let crowded = Host::within(place.path());
    full(crowded.pull(&source).unwrap_err());
    crowded.nothing_left();

    // A copy of a file of the user's.
    let own = dir.path().join("my.ext4");
    fs::copy(&image.rootfs, &own).unwrap();
    let place = small("promote");
    let store = Host::within(place.path()).store;
    let registered = store.register(&"my".parse().unwrap(), &own, KernelChoice::Unchanged, &job).unwrap().manifest.id;
    full(store.promote(&registered, &job).unwrap_err());
    assert_eq!(names(&place.path().join("images")), [registered.as_str()]);

    // A bundle, which takes the place of nothing.
    let place = small("bundle");
    let out = place.path().join("app.tar.zst");
    fs::write(&out, "before").unwrap();
    full(host.store.bundle(&image.manifest.id, &out, &job).unwrap_err());
    assert_eq!((names(place.path()), fs::read(&out).unwrap()), (vec!["app.tar.zst".to_owned()], b"before".to_vec()));
}

/// Whether the file system of `directory` supports `O_TMPFILE`.
fn knows_unnamed(directory: &Path) -> bool {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    rustix::fs::open(directory, flags, rustix::fs::Mode::RUSR).is_ok()
}

#[test]
fn a_bundle_that_is_written() {
    let (host, image) = pulled();
    let root = host.dir.path();
    let out = root.join(BUNDLE);
    fs::create_dir(out.parent().unwrap()).unwrap();
    let (id, work) = (image.manifest.id.to_string(), format!("bundle {}", image.manifest.id));
    let mut killed = child::start(root, &work, "packing the image");
    assert_eq!(killed.next_line().as_deref(), Some("stopped"));
    drop(killed);
    if knows_unnamed(out.parent().unwrap()) {
        assert_eq!(names(out.parent().unwrap()), Vec::<String>::new());
    }
    let mut again = child::start(root, &work, "");
    assert_eq!(again.next_line(), Some(format!("done {id}")));
    again.assert_success();
    let left = names(out.parent().unwrap());
    assert_eq!(left.iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), ["app.tar.zst"]);
    assert_eq!(Image::open(&image.rootfs).read("/a"), b"a");
}
