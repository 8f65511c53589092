//! Tests of successful pulls.

use super::{
    archives::{layout_of, write_layout},
    layers::{Layer, gzip, zstd},
    registry::{Content, Host, OCI_LAYER, reference},
};
use crate::{
    ext4::{Image, check},
    web::Server,
};
use banger_artifacts::{
    image::{Corruption, Depth, ImageError},
    job::{Job, Silent},
    oci::Platform,
};
use banger_testkit::{require, wait_until};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};
use tar::EntryType;

fn opened(path: &Path) -> Image {
    check(path);
    Image::open(path)
}

#[test]
fn layers_of_every_kind_become_one_tree() {
    if !require("e2fsck") {
        return;
    }
    let base = Layer::new()
        .dir("etc/")
        .file("etc/os-release", "PRETTY_NAME=\"Test 1\"\n")
        .file("gone", "x")
        .dir("kept")
        .file("kept/lower", "lower")
        .dir("emptied")
        .file("emptied/lower", "x")
        .symlink("lib", "usr/lib")
        .dir("usr/lib")
        .file("a", "first")
        .link("b", "a")
        .done();
    let middle = Layer::new()
        .file(".wh.gone", "")
        .file("emptied/upper", "upper")
        .file("emptied/.wh..wh..opq", "")
        .file("lib/through", "a link")
        .file("a", "second")
        .link("c", "/b")
        .done();
    let top = Layer::new().file("kept/.wh.lower", "").file("kept/upper", "upper").file("/absolute", "yes").done();
    let content = Content::default();
    content.image(
        "v1",
        &[
            (base.clone(), gzip(&base), &format!("{OCI_LAYER}+gzip")),
            (middle.clone(), zstd(&middle), &format!("{OCI_LAYER}+zstd")),
            (top.clone(), top, OCI_LAYER),
        ],
        &json!({"Env": ["A=1", "PATH=/bin"], "WorkingDir": "/w", "User": "1:2", "Entrypoint": ["/e"], "Cmd": ["c"]}),
    );
    let server = content.serve();
    let host = Host::new();
    let pulled = host.image(&reference(&server, "v1"));
    let image = opened(&pulled.rootfs);
    assert!(!image.exists("/gone") && !image.exists("/.wh.gone"));
    assert!(!image.exists("/emptied/lower") && !image.exists("/kept/lower") && !image.exists("/emptied/.wh..wh..opq"));
    for (path, text) in [
        ("/emptied/upper", "upper"),
        ("/kept/upper", "upper"),
        ("/usr/lib/through", "a link"),
        ("/a", "second"),
        ("/b", "first"),
        ("/c", "first"),
        ("/absolute", "yes"),
    ] {
        assert_eq!(image.read(path), text.as_bytes(), "{path}");
    }
    assert_eq!(image.link("/lib"), b"usr/lib");
    let manifest = pulled.manifest;
    assert_eq!(manifest.os.as_deref(), Some("Test 1"));
    let config = manifest.config.unwrap();
    assert_eq!((config.workdir.as_deref(), config.user.as_deref()), (Some("/w"), Some("1:2")));
    assert_eq!((config.env["A"].as_str(), config.entrypoint, config.cmd), ("1", vec!["/e".into()], vec!["c".into()]));
}

#[test]
fn the_same_digest_again_costs_the_manifest() {
    let content = Content::default();
    let digest = content.plain("v1", &[Layer::new().file("a", "1").done()]);
    let server = content.serve();
    let host = Host::new();
    let first = host.pull(&reference(&server, "v1")).unwrap();
    assert!(!first.known);
    let before = server.hits();
    let again = host.pull(&reference(&server, "v1")).unwrap();
    assert!(again.known && again.image == first.image);
    assert_eq!(server.hits() - before, 1);
    let by_digest = host.pull(&format!("127.0.0.1:{}/app@{digest}", server.port())).unwrap();
    assert!(by_digest.known && by_digest.pinned.is_none());
    let pinned = again.pinned.unwrap();
    assert_eq!((Some(&pinned), host.pull(&pinned).unwrap().image), (first.pinned.as_ref(), first.image.clone()));
    // A tag that moved is another image; the old one stays.
    content.plain("v1", &[Layer::new().file("a", "2").done()]);
    let moved = host.pull(&reference(&server, "v1")).unwrap();
    assert!(!moved.known && moved.image.manifest.id != first.image.manifest.id);
    assert!(host.store.get(&first.image.manifest.id).is_ok());
}

#[test]
fn what_the_disk_may_not_have_is_read_before_a_pull_relies_on_it() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "1").done()]);
    let server = content.serve();
    let host = Host::new();
    let first = host.image(&reference(&server, "v1"));
    let mark = first.rootfs.with_file_name(".unsynced");
    // As another boot of the host left it.
    let doubt = || {
        let synced = || if mark.exists() { Err("it is marked".to_owned()) } else { Ok(()) };
        wait_until(Duration::from_secs(60), "an image on the disk", synced);
        fs::write(&mark, "another boot\n").unwrap();
    };
    doubt();
    let again = host.pull(&reference(&server, "v1")).unwrap();
    assert!(again.known && again.image == first && !mark.exists());
    assert!(host.recorder.0.lock().unwrap().iter().any(|it| it.contains("shortly before this host went down")));

    doubt();
    fs::set_permissions(&first.rootfs, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().write(true).open(&first.rootfs).unwrap();
    file.write_all_at(b"lost", first.manifest.size_bytes - 4).unwrap();
    let anew = host.pull(&reference(&server, "v1")).unwrap();
    assert!(!anew.known && anew.image.manifest.id == first.manifest.id);
    let job = Job { progress: &Silent, cancel: &host.cancel };
    host.store.verify(&first.manifest.id, Depth::Full, &job).unwrap();
}

#[test]
fn what_the_disk_refused_is_good_for_nothing_until_it_is_pulled_again() {
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("a", "1").done()]);
    let server = content.serve();
    let host = Host::new();
    let first = host.image(&reference(&server, "v1"));
    let (id, mark) = (&first.manifest.id, first.rootfs.with_file_name(".unsynced"));
    let synced = || {
        let synced = || if mark.exists() { Err("it is marked".to_owned()) } else { Ok(()) };
        wait_until(Duration::from_secs(60), "an image on the disk", synced);
    };
    synced();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&mark, format!("failed {boot}")).unwrap();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let refused = |error| matches!(error, ImageError::Corrupt { source: Corruption::Refused, .. });
    assert!(refused(host.store.quick_check(id).unwrap().problem.unwrap()));
    assert!(refused(host.store.settle(id, &job).unwrap_err()), "nothing starts from it");
    let anew = host.pull(&reference(&server, "v1")).unwrap();
    assert!(!anew.known && anew.image.manifest.id == *id);
    assert!(host.store.quick_check(id).unwrap().problem.is_none());
    host.store.settle(id, &job).unwrap();

    // What comes from a file that may go is on the disk once it was pulled, whoever else brings it there.
    let dir = host.dir.path().join("layout");
    write_layout(&dir, &layout_of(&[("own", vec![Layer::new().file("a", "own").done()])]));
    let source = format!("oci:{}", dir.display());
    let own = host.image(&source).rootfs.with_file_name(".unsynced");
    assert!(!own.exists());
    fs::write(&own, boot).unwrap();
    assert!(host.pull(&source).unwrap().known && !own.exists());
}

#[test]
fn images_that_differ_in_their_configuration_are_two() {
    let content = Content::default();
    let layer = Layer::new().file("a", "1").done();
    content.plain("base", std::slice::from_ref(&layer));
    let run = json!({"Env": ["A=1"], "User": "1000", "Cmd": ["serve"]});
    content.image("app", &[(layer.clone(), layer.clone(), OCI_LAYER)], &run);
    let server = content.serve();
    let host = Host::new();
    let base = host.image(&reference(&server, "base"));
    let app = host.image(&reference(&server, "app"));
    assert_ne!((&app.manifest.id, &app.manifest.digest), (&base.manifest.id, &base.manifest.digest));
    assert_eq!(base.manifest.config, None);
    let config = app.manifest.config.clone().unwrap();
    assert_eq!((config.user.as_deref(), config.cmd, &*config.env["A"]), (Some("1000"), vec!["serve".into()], "1"));
    // A change of the command alone arrives, and each is known when it is asked for again.
    content.image("app", &[(layer.clone(), layer.clone(), OCI_LAYER)], &json!({"Cmd": ["serve", "more"]}));
    let changed = host.image(&reference(&server, "app"));
    assert_eq!(changed.manifest.config.unwrap().cmd, ["serve", "more"]);
    for tag in ["base", "app"] {
        let before = server.hits();
        assert!(host.pull(&reference(&server, tag)).unwrap().known);
        assert_eq!(server.hits() - before, 1, "{tag}");
    }
}

#[test]
fn what_turns_out_to_be_an_image_that_is_here_is_known_from_then_on() {
    let content = Content::default();
    let layer = Layer::new().file("a", "1").done();
    let packed = |tag: &str, bytes: Vec<u8>, kind: &str| {
        content.image(tag, &[(layer.clone(), bytes, kind)], &json!({"Cmd": ["c"]}));
    };
    packed("gzip", gzip(&layer), &format!("{OCI_LAYER}+gzip"));
    packed("zstd", zstd(&layer), &format!("{OCI_LAYER}+zstd"));
    let server = content.serve();
    let host = Host::new();
    let first = host.pull(&reference(&server, "gzip")).unwrap();
    let second = host.pull(&reference(&server, "zstd")).unwrap();
    assert!(!second.known);
    assert_eq!(first.image.manifest.id, second.image.manifest.id);
    for tag in ["gzip", "zstd"] {
        let before = server.hits();
        assert!(host.pull(&reference(&server, tag)).unwrap().known, "{tag}");
        assert_eq!(server.hits() - before, 1, "{tag}");
    }
    // And however many more of them there are.
    for number in 0..70 {
        let config = json!({"os": "linux", "architecture": "amd64", "author": number.to_string(), "config": {"Cmd": ["c"]},
            "rootfs": {"type": "layers", "diff_ids": [super::registry::digest(&layer)]}});
        let stored = json!({"mediaType": OCI_LAYER, "digest": content.blob(&layer), "size": layer.len()});
        content.manifest("again", &config, &[stored]);
        assert_eq!(host.image(&reference(&server, "again")).manifest.id, first.image.manifest.id);
    }
    assert!(host.pull(&reference(&server, "again")).unwrap().known);
    assert_eq!(host.store.list().unwrap()[0].manifest.also.len(), 64);
}

#[test]
fn layers_that_are_shared_are_downloaded_once() {
    let content = Content::default();
    let (base, a, b) = (
        Layer::new().file("base", vec![7; 300_000]).done(),
        Layer::new().file("a", "a").done(),
        Layer::new().file("b", "b").done(),
    );
    content.plain("a", &[base.clone(), a.clone(), base.clone()]);
    content.plain("b", &[base.clone(), b]);
    let server = content.serve();
    let host = Host::new();
    host.image(&reference(&server, "a"));
    host.image(&reference(&server, "b"));
    let path = format!("/v2/app/blobs/{}", super::registry::digest(&base));
    let asked = server.heads().iter().filter(|head| head.contains(&path)).count();
    assert_eq!(asked, 1);
    let lines = host.recorder.0.lock().unwrap().clone();
    assert!(lines.iter().any(|line| line.ends_with("Cached")) && lines.iter().any(|line| line.ends_with("Coming")));
}

#[test]
fn a_layer_without_a_byte_is_asked_for_once_too() {
    let content = Content::default();
    let empty = Vec::new();
    content.plain("v1", &[empty.clone(), Layer::new().file("a", "1").done(), empty.clone()]);
    let server = content.serve();
    let host = Host::new();
    let first = host.image(&reference(&server, "v1"));
    // The cache keeps it like any other.
    host.store.delete(&first.manifest.id, &host.cancel).unwrap();
    assert_eq!(host.image(&reference(&server, "v1")).manifest.id, first.manifest.id);
    let path = super::registry::digest(&empty);
    assert_eq!(server.heads().iter().filter(|head| head.contains(&path)).count(), 1);
}

#[test]
fn a_prune_in_the_middle_of_a_pull_costs_no_second_download() {
    let content = Content::default();
    let layer = |name: String| Layer::new().file(&name, name.clone()).done();
    let old: Vec<Vec<u8>> = (0..6).map(|n| layer(format!("old{n}"))).collect();
    let new: Vec<Vec<u8>> = (0..3).map(|n| layer(format!("new{n}"))).collect();
    content.plain("before", &old);
    // As many new ones below as there are layers at work: none of the old ones has its turn before they are here.
    content.plain("after", &[new.clone(), old.clone()].concat());
    let slow: Vec<String> =
        new.iter().map(|layer| format!("/v2/app/blobs/{}", super::registry::digest(layer))).collect();
    let gate = Arc::new((Mutex::new((0, false)), Condvar::new()));
    let (opened, is_slow) = (gate.clone(), slow.clone());
    let server = Server::start(move |request| {
        if is_slow.contains(&request.path) {
            let (state, changed) = &*opened;
            let mut state = state.lock().unwrap();
            state.0 += 1;
            changed.notify_all();
            drop(changed.wait_while(state, |(_, open)| !*open).unwrap());
        }
        content.answer(request)
    });
    let host = Host::new();
    host.image(&reference(&server, "before"));
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| host.image(&reference(&server, "after")));
        let (state, changed) = &*gate;
        drop(changed.wait_while(state.lock().unwrap(), |(waiting, _)| *waiting < 3).unwrap());
        let pruned = host.registries.cache.prune(false, &host.cancel).unwrap();
        state.lock().unwrap().1 = true;
        changed.notify_all();
        assert_eq!((pruned.blobs, pruned.in_use), (0, 6));
        pull.join().unwrap();
    });
    for layer in old.iter().chain(&new) {
        let path = super::registry::digest(layer);
        assert_eq!(server.heads().iter().filter(|head| head.contains(&path)).count(), 1);
    }
    let pruned = host.registries.cache.prune(false, &host.cancel).unwrap();
    assert_eq!((pruned.blobs, pruned.in_use), (9, 0), "nobody holds them afterwards");
}

#[test]
fn the_platform_that_fits_is_chosen_and_others_are_listed() {
    let content = Content::default();
    let arm = json!({"os": "linux", "architecture": "arm64", "rootfs": {"diff_ids": []}});
    let arm = content.manifest("arm", &arm, &[]);
    let amd = content.plain("amd", &[Layer::new().file("a", "amd64").done()]);
    let entry = |digest: &str, os: &str, architecture: &str| {
        let (kind, bytes) = content.get(&format!("manifests/{digest}")).unwrap();
        json!({"mediaType": kind, "digest": digest, "size": bytes.len(),
            "platform": {"os": os, "architecture": architecture}})
    };
    let list = [entry(&arm, "unknown", "unknown"), entry(&arm, "linux", "arm64"), entry(&amd, "linux", "amd64")];
    let kind = "application/vnd.docker.distribution.manifest.list.v2+json";
    content.document("all", kind, &json!({"schemaVersion": 2, "manifests": list}));
    // Marked as an attestation by its annotation alone.
    let mut attestation = entry(&amd, "linux", "amd64");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let arms = [&attestation, &list[0], &list[1]];
    content.document("arms", kind, &json!({"schemaVersion": 2, "manifests": arms}));
    let server = content.serve();
    let host = Host::new();
    assert_eq!(Image::open(&host.image(&reference(&server, "all")).rootfs).read("/a"), b"amd64");
    assert!(host.pull(&reference(&server, "all")).unwrap().known);
    let arm64: Platform = "linux/arm64".parse().unwrap();
    assert_eq!(host.pull_for(&reference(&server, "all"), arm64).unwrap().image.manifest.arch, "aarch64");
    let other = Host::new();
    for tag in ["arms", "arm"] {
        let refusal = other.refusal(&reference(&server, tag));
        assert!(refusal.contains("no linux/amd64") && refusal.contains("there is: linux/arm64"), "{refusal}");
    }
    // That one of them is here already, from a manifest that names no platform, makes it no other's.
    for (tag, asked, is) in [("arm", "linux/amd64", "linux/arm64"), ("amd", "linux/arm64", "linux/amd64")] {
        let error = host.pull_for(&reference(&server, tag), asked.parse().unwrap()).unwrap_err();
        let refusal = super::registry::chain(&error);
        assert!(refusal.contains(&format!("no {asked}")) && refusal.contains(&format!("there is: {is}")), "{refusal}");
        assert!(host.pull_for(&reference(&server, tag), is.parse().unwrap()).unwrap().known);
    }
}

#[test]
fn the_same_image_gives_the_same_bytes_whatever_its_layers_took_to_come() {
    let layers: Vec<Vec<u8>> = (0..6_u8)
        .map(|n| Layer::new().file("x", [n; 10]).file(&format!("f{n}"), vec![n; 1 << (10 + n)]).done())
        .collect();
    let content = Content::default();
    content.plain("v1", &layers);
    let server = content.serve();
    let (one, two) = (Host::new(), Host::new());
    assert_eq!(
        one.image(&reference(&server, "v1")).manifest.digest,
        two.image(&reference(&server, "v1")).manifest.digest
    );
}

#[test]
fn odd_things_arrive() {
    if !require("e2fsck") {
        return;
    }
    let long = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    let mut sparse = vec![0_u8; 3 << 20];
    sparse[1 << 20] = 1;
    let layer = Layer::new()
        .file(&long, "long")
        .raw(b"null", EntryType::Char, b"", b"")
        .raw(b"pipe", EntryType::Fifo, b"", b"")
        .file("sparse", &sparse)
        .file("zeros", vec![0_u8; 1 << 20])
        .file("almost", [vec![0_u8; 1 << 20], vec![1; 5]].concat())
        .file("empty", "")
        .done();
    let content = Content::default();
    content.plain("v1", &[layer, Layer::new().done(), Vec::new()]);
    let server = content.serve();
    let pulled = Host::new();
    let pulled = (pulled.image(&reference(&server, "v1")), pulled);
    let image = opened(&pulled.0.rootfs);
    assert_eq!(image.read(format!("/{long}")), b"long");
    assert_eq!(image.read("/sparse"), sparse);
    assert_eq!(image.read("/zeros"), vec![0; 1 << 20]);
    assert_eq!(image.read("/almost").len(), (1 << 20) + 5);
    assert!(image.stat("/null").contains("Type: character special"));
    let blocks =
        image.stat("/sparse").lines().find_map(|line| line.split("Blockcount: ").nth(1)?.trim().parse::<u64>().ok());
    assert!(blocks.unwrap() <= 16, "{blocks:?} blocks of 512 bytes for one of 4096");
}

#[test]
fn no_layers_are_an_image_too() {
    let content = Content::default();
    content.image("v1", &[], &Value::Null);
    let server = content.serve();
    let host = Host::new();
    assert!(host.image(&reference(&server, "v1")).manifest.config.is_none());
}
