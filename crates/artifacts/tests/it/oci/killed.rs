//! Tests of pulls that are killed at every step or run out of space, and what they leave.

use super::{
    child::{self, stored},
    interrupted::noise,
    layers::{Layer, gzip},
    registry::{Content, Host, OCI_LAYER, chain, names, reference},
};
use crate::{ext4::Image, full::Tmpfs, web::Server};
use banger_artifacts::{image::ImageStore, job::Cancel, oci::BlobCache};
use banger_testkit::{require, wait_until};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use std::{fs, time::Duration};

/// Steps of a pull, by its progress; `halfway` is in the middle of a layer, `written` when the whole image but its
/// digest is there.
const STEPS: [&str; 6] =
    ["asking for", "getting 2 layers", "halfway", "writing the image", "written", "saving the image"];

/// Two layers, one of them longer than the interval of progress reports.
fn served() -> (Server, Content) {
    let content = Content::default();
    let large = Layer::new().file("noise", noise(12 << 20)).done();
    // Together as large as the blocks that a layer gets at first.
    let small = Layer::new().file("a", "a").file("b", noise(252 << 10)).done();
    let kind = format!("{OCI_LAYER}+gzip");
    content.image("v1", &[(large.clone(), gzip(&large), &kind), (small.clone(), gzip(&small), &kind)], &Value::Null);
    (content.serve(), content)
}

#[test]
fn a_pull_killed_at_any_step_leaves_a_store_that_is_in_order() {
    let (server, _content) = served();
    let source = reference(&server, "v1");
    let other = Host::new();
    let undisturbed = other.image(&source);
    for step in STEPS {
        let dir = tempfile::tempdir().unwrap();
        let (images, blobs) = (dir.path().join("images"), dir.path().join("blobs"));
        let mut killed = child::start(dir.path(), &source, step);
        assert_eq!(killed.next_line().as_deref(), Some("stopped"), "{step}");
        // Others go on with the store while it is there, and do not take its work for refuse.
        let others = ImageStore::open(&images).unwrap();
        assert!(others.list().unwrap().is_empty(), "{step}");
        // Who only asks has nothing yet.
        let at_work = stored(&images).iter().any(|name| name.starts_with(".staging-"));
        assert_eq!(at_work, step != "asking for", "{step}: {:?}", stored(&images));
        let pruned = BlobCache::open(&blobs).unwrap().prune(false, &Cancel::default()).unwrap();
        assert!(pruned.blobs <= 2, "{step}: {pruned:?}");
        drop(killed);

        assert!(others.list().unwrap().is_empty(), "{step}");
        let mut again = child::start(dir.path(), &source, "");
        let done = format!("done {}", undisturbed.manifest.id);
        assert_eq!(again.next_line(), Some(done), "{step}");
        again.assert_success();
        assert_eq!(stored(&images), [undisturbed.manifest.id.to_string()], "{step}: the next one swept");
        assert!(stored(&blobs).iter().all(|name| !name.starts_with('.')), "{step}: {:?}", stored(&blobs));
        let image = others.get(&undisturbed.manifest.id).unwrap();
        assert_eq!(Image::open(&image.rootfs).read("/a"), b"a");
        assert!(fs::read(&image.rootfs).unwrap() == fs::read(&undisturbed.rootfs).unwrap(), "{step}");
    }
}

#[test]
fn a_prune_that_is_killed_leaves_a_cache_that_is_in_order() {
    let (server, _content) = served();
    let (dir, source) = (tempfile::tempdir().unwrap(), reference(&server, "v1"));
    let image = Host::within(dir.path()).image(&source);
    let blobs = dir.path().join("blobs");
    let before = stored(&blobs);
    // What nobody writes to is opened when somebody does: there it stays, behind the first.
    let last = blobs.join(format!("{}0", before[0]));
    mknodat(CWD, &last, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let killed = child::start(dir.path(), "prune", "");
    let gone = || if blobs.join(&before[0]).exists() { Err("not yet".into()) } else { Ok(()) };
    wait_until(Duration::from_secs(60), "the first to go", gone);
    drop(killed);
    fs::remove_file(&last).unwrap();
    assert_eq!(stored(&blobs), before[1..]);
    let host = Host::within(dir.path());
    host.store.delete(&image.manifest.id, &Cancel::default()).unwrap();
    assert_eq!(host.image(&source).manifest.id, image.manifest.id);
    assert_eq!(stored(&blobs), before, "what was gone came again");
    let mut whole = child::start(dir.path(), "prune", "");
    assert_eq!(whole.next_line(), Some(format!("pruned {}", before.len())));
    whole.assert_success();
    assert_eq!(stored(&blobs), Vec::<String>::new());
}

#[test]
fn a_prune_during_a_pull_harms_nothing() {
    let content = Content::default();
    let layers: Vec<Vec<u8>> = (0..8).map(|n| Layer::new().file(&format!("f{n}"), noise(200_000 + n)).done()).collect();
    content.plain("v1", &layers);
    let server = content.serve();
    let host = Host::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut rounds = 0_u32;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                host.registries.cache.prune(false, &Cancel::default()).unwrap();
                rounds += 1;
            }
            rounds
        });
        for round in 0..10 {
            let image = host.image(&reference(&server, "v1"));
            assert_eq!(Image::open(&image.rootfs).read("/f7"), noise(200_007), "{round}");
            host.store.delete(&image.manifest.id, &Cancel::default()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(pruning.join().unwrap() > 0);
    });
}

#[test]
fn different_images_come_at_the_same_time() {
    // Neither layer ends before both have begun.
    let both = std::sync::Arc::new(std::sync::Barrier::new(2));
    let content = Content::default();
    for tag in ["one", "two"] {
        content.plain(tag, &[Layer::new().file("a", tag).done()]);
    }
    let server = Server::start(move |request| {
        if content.is_layer(&request.path) {
            both.wait();
        }
        content.answer(request)
    });
    let host = Host::new();
    std::thread::scope(|scope| {
        for tag in ["one", "two"] {
            let (host, server) = (&host, &server);
            scope.spawn(move || {
                let image = host.image(&reference(server, tag));
                assert_eq!(Image::open(&image.rootfs).read("/a"), tag.as_bytes());
            });
        }
    });
    assert_eq!(host.store.list().unwrap().len(), 2);
}

#[test]
fn a_disk_that_is_full_in_the_middle_is_told_and_cleaned_up() {
    if !require("mount") {
        return;
    }
    let (server, _content) = served();
    let source = reference(&server, "v1");
    // Which directory is too small, and for what: the large layer's contents, what makes a file system of them.
    for (small, size, said) in [
        ("images", "8m", "the image does not fit on its disk"),
        ("images", "12556k", "cannot pull image app: cannot write the image"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let full = Tmpfs::mount(&dir.path().join(small), size);
        let host = Host::within(dir.path());
        let error = host.pull(&source).unwrap_err();
        assert!(error.is_out_of_space(), "{}", chain(&error));
        assert!(chain(&error).contains(said), "{said}: {}", chain(&error));
        assert_eq!(names(&dir.path().join("images")), Vec::<String>::new());
        assert!(names(&dir.path().join("blobs")).iter().all(|name| !name.starts_with('.')));
        // With room it works, and what is good in the cache is not downloaded again.
        drop(host);
        drop(full);
        let host = Host::within(dir.path());
        assert_eq!(Image::open(&host.image(&source).rootfs).read("/a"), b"a");
    }
}

#[test]
fn a_cache_that_is_full_keeps_nobody_from_an_image() {
    if !require("mount") {
        return;
    }
    let (server, _content) = served();
    let dir = tempfile::tempdir().unwrap();
    let _full = Tmpfs::mount(&dir.path().join("blobs"), "8m");
    let host = Host::within(dir.path());
    assert_eq!(Image::open(&host.image(&reference(&server, "v1")).rootfs).read("/a"), b"a");
    // The small layer has room there, and nothing is left of the large one.
    let [kept] = &names(&dir.path().join("blobs"))[..] else { panic!("one layer is kept") };
    assert!(!kept.starts_with('.'), "{kept}");
}
