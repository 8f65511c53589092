//! Tests of a catalog entry's sources: tried in their order, until one works.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::{
    layers::Layer,
    registry::{Content, Host, OCI_LAYER, chain, reference},
};
use crate::{ext4::Image, full::Tmpfs, sha256, web::Server};
use banger_artifacts::{
    image::{Catalog, CatalogEntry, Depth, Image as Kept, ImageError, KernelChoice, OciSource, Reliance, Source},
    job::{Cancel, Job, Progress, Silent},
};
use banger_proto::name::{ImageId, KernelName};
use banger_testkit::{require, wait_until};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Mutex,
    time::Duration,
};

pub(super) fn entry(sources: &[Value]) -> CatalogEntry {
    let entry = json!({"name": "app", "arch": std::env::consts::ARCH, "kernel": "test-6.1", "sources": sources});
    let catalog = Catalog::parse(json!({"version": 1, "entries": [entry]}).to_string().as_bytes()).unwrap();
    catalog.here(&"app".parse().unwrap()).unwrap().clone()
}

pub(super) fn bundle(server: &Server, sha256: &str, size: usize) -> Value {
    json!({"type": "bundle", "url": server.url("/app.tar.zst"), "sha256": sha256, "size": size})
}

/// Source that does not exist.
fn none(server: &Server) -> Value {
    bundle(server, &"0".repeat(64), 7)
}

fn oci(reference: &str) -> Value {
    json!({"type": "oci", "ref": reference, "platform": "linux/amd64"})
}

pub(super) fn pull(host: &Host, entry: &CatalogEntry) -> Result<Kept, ImageError> {
    pull_unless(host, entry, &|_: &ImageId| Ok(false))
}

pub(super) fn pull_unless(host: &Host, entry: &CatalogEntry, relied_on: &dyn Reliance) -> Result<Kept, ImageError> {
    host.store.pull(entry, &host.registries, relied_on, &Job { progress: &host.recorder, cancel: &host.cancel })
}

/// Returns the notices of the host's pulls so far.
fn notices(host: &Host) -> Vec<String> {
    host.recorder.0.lock().unwrap().iter().filter_map(|line| Some(line.strip_prefix("notice: ")?.to_owned())).collect()
}

pub(super) fn one_image() -> (Content, String) {
    let content = Content::default();
    let digest = content.plain("v1", &[Layer::new().file("a", "a").done()]);
    (content, digest)
}

#[test]
fn the_first_that_works_is_taken_and_no_later_one_is_asked() {
    let (content, _) = one_image();
    let (absent, registry, later) =
        (Server::raw("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"), content.serve(), content.serve());
    let sources =
        [json!({"type": "teleport"}), none(&absent), oci(&reference(&registry, "v1")), oci(&reference(&later, "v1"))];
    let host = Host::new();
    let image = pull(&host, &entry(&sources)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(Image::open(&image.rootfs).read("/a"), b"a");
    assert_eq!(image.manifest.kernel, Some("test-6.1".parse().unwrap()));
    assert!(
        matches!(&image.manifest.source, Source::Oci(OciSource { reference: from, .. }) if *from == reference(&registry, "v1")),
        "{:?}",
        image.manifest.source
    );
    assert_eq!((absent.hits(), later.hits()), (1, 0));
    // Of the one that has nothing there is a word, of the one that is for another banger there is none.
    let told = notices(&host);
    let [passed_over] = &told[..] else { panic!("{told:?}") };
    for part in [&absent.url("/app.tar.zst"), "did not give image app", "answers 404", &reference(&registry, "v1")] {
        assert!(passed_over.contains(part), "{part}: {passed_over}");
    }
}

#[test]
fn a_bundle_that_is_not_what_the_catalog_says_is_told_whatever_comes_in_its_place() {
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    let file = host.dir.path().join("app.tar.zst");
    let image = host.image(&reference(&registry, "v1"));
    host.store.bundle(&image.manifest.id, &file, &Job { progress: &Silent, cancel: &host.cancel }).unwrap();
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let (bytes, pinned) = (fs::read(&file).unwrap(), "1".repeat(64));
    let (other, absent) = (Server::serving(bytes.clone()), Server::raw("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"));
    let first = bundle(&other, &pinned, bytes.len());
    let refused = format!("the bundle has the SHA-256 {}, not {pinned}", sha256(&bytes));
    // The error is that of the source that was asked last.
    let failed = pull(&host, &entry(&[first.clone(), oci(&reference(&absent, "v1"))])).unwrap_err();
    assert!(chain(&failed).contains("has no app:v1"), "{}", chain(&failed));
    assert!(notices(&host).iter().any(|told| told.contains(&refused)), "{:?}", notices(&host));
    host.recorder.0.lock().unwrap().clear();
    pull(&host, &entry(&[first, oci(&reference(&registry, "v1"))])).unwrap();
    assert!(notices(&host).iter().any(|told| told.contains(&refused)), "{:?}", notices(&host));
}

#[test]
fn where_none_works_the_last_one_that_was_asked_says_why() {
    let absent = Server::raw("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
    let host = Host::new();
    let failed = pull(&host, &entry(&[oci(&reference(&absent, "v1")), none(&absent), json!({"type": "teleport"})]));
    let said = chain(&failed.unwrap_err());
    assert!(said.starts_with("cannot pull image app: ") && said.contains("/app.tar.zst answers 404"), "{said}");
    assert_eq!(absent.hits(), 2);
    host.nothing_left();
}

#[test]
fn mmdebstrap_comes_where_nobody_has_anything_published() {
    if !require("apt") {
        return;
    }
    let absent = Server::raw("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
    // Asking for what Debian does not have shows that it is asked, and costs no build.
    let built = json!({"type": "mmdebstrap", "suite": "nosuchsuite"});
    let host = Host::new();
    let failed = pull(&host, &entry(&[none(&absent), oci(&reference(&absent, "v1")), built]));
    let said = chain(&failed.unwrap_err());
    assert!(said.contains("nosuchsuite Release"), "{said}");
    assert_eq!(absent.hits(), 2);
    host.nothing_left();
}

#[test]
fn who_is_cancelled_asks_no_other_source() {
    let (content, _) = one_image();
    let host = Host::new();
    let cancel = host.cancel.clone();
    let stalling = Server::start(move |mut request| {
        cancel.cancel();
        request.stall()
    });
    let later = content.serve();
    let error = pull(&host, &entry(&[none(&stalling), oci(&reference(&later, "v1"))])).unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
    assert_eq!(later.hits(), 0);
    host.nothing_left();
}

#[test]
fn a_full_disk_is_told_before_the_rest_of_a_bundle_came() {
    if !require("mount") {
        return;
    }
    let content = Content::default();
    content.plain("v1", &[Layer::new().file("noise", super::interrupted::noise(16 << 20)).done()]);
    let registry = content.serve();
    let host = Host::new();
    let image = host.image(&reference(&registry, "v1"));
    let file = host.dir.path().join("app.tar.zst");
    let job = Job { progress: &Silent, cancel: &Cancel::default() };
    let written = host.store.bundle(&image.manifest.id, &file, &job).unwrap();
    let bytes = fs::read(&file).unwrap();
    // Most of it comes, and then nothing.
    let server = Server::start(move |mut request| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        request.stream.write_all(head.as_bytes())?;
        request.stream.write_all(&bytes[..bytes.len() - 100_000])?;
        request.stall()
    });
    let small = Tmpfs::mount(&host.dir.path().join("small"), "4m");
    let crowded = Host::within(small.path());
    let size = usize::try_from(written.size).unwrap();
    let error = pull(&crowded, &entry(&[bundle(&server, &written.sha256, size)])).unwrap_err();
    assert!(error.is_out_of_space(), "{}", chain(&error));
    crowded.nothing_left();
}

#[test]
fn what_is_here_is_an_entrys_only_where_its_content_is() {
    let (content, digest) = one_image();
    let server = content.serve();
    let host = Host::new();
    let job = Job { progress: &Silent, cancel: &Cancel::default() };
    let by_tag = entry(&[oci(&reference(&server, "v1"))]);
    let pinned = entry(&[oci(&format!("127.0.0.1:{}/app@{digest}", server.port()))]);
    let is_here = |entry: &CatalogEntry| host.store.of_entry(entry, &job).unwrap().is_some();
    let image = pull(&host, &pinned).unwrap();
    assert_eq!(image.manifest.name.as_str(), "app");
    // A tag may lead elsewhere by now.
    assert_eq!((is_here(&pinned), is_here(&by_tag)), (true, false));

    let file = host.dir.path().join("app.tar.zst");
    let written = host.store.bundle(&image.manifest.id, &file, &job).unwrap();
    let home = host.dir.path().to_str().unwrap();
    let said = |text: &str| {
        let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(&file).unwrap()).unwrap());
        let manifest = archive.entries().unwrap().next().unwrap().unwrap();
        std::io::read_to_string(manifest).unwrap().contains(text)
    };
    assert!(said("\"image\"") && !said(home) && !said("127.0.0.1"), "a bundle says nothing of this host");
    let url = written.entry["sources"][0]["url"].as_str().unwrap();
    assert!(url.ends_with(&format!("/{}.tar.zst", &written.sha256[..16])), "named by its content: {url}");
    let published = Server::serving(fs::read(&file).unwrap());
    let size = usize::try_from(written.size).unwrap();
    let bundled = entry(&[bundle(&published, &written.sha256, size)]);
    assert!(!is_here(&bundled), "of the same name, and from elsewhere");
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let back = pull(&host, &bundled).unwrap();
    assert_eq!(back.manifest.id, image.manifest.id);
    // Wherever the bundle is by now.
    let moved = Server::raw("");
    assert!(is_here(&bundled) && is_here(&entry(&[none(&moved), bundle(&moved, &written.sha256, size)])));
    assert!(!is_here(&entry(&[none(&moved)])) && !is_here(&pinned));
    // Nor does it come again for somebody who waited while another one brought it.
    assert_eq!(pull(&host, &entry(&[bundle(&moved, &written.sha256, size)])).unwrap(), back);
    assert_eq!((published.hits(), moved.hits()), (1, 0));
}

/// Returns the same bundle with another manifest.
pub(super) fn with_manifest(bundle: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    changed(bundle, |manifest, _| change(manifest))
}

/// Returns the same bundle with another manifest and another file system.
fn changed(bundle: &[u8], change: impl FnOnce(&mut Value, &mut [u8])) -> Vec<u8> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(bundle).unwrap());
    let mut parts: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let (header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (header, path, bytes)
        })
        .collect();
    let [(_, first, manifest), (_, _, rootfs)] = &mut parts[..] else { panic!("{} parts", parts.len()) };
    assert_eq!(first, Path::new("manifest.json"), "it comes first");
    let mut value = serde_json::from_slice(manifest).unwrap();
    change(&mut value, rootfs);
    *manifest = value.to_string().into_bytes();
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (mut header, path, bytes) in parts {
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn a_bundle_speaks_for_itself_alone_and_is_an_image_or_nothing() {
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    let image = host.image(&reference(&registry, "v1"));
    let file = host.dir.path().join("app.tar.zst");
    let job = Job { progress: &Silent, cancel: &host.cancel };
    host.store.bundle(&image.manifest.id, &file, &job).unwrap();
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let bytes = fs::read(&file).unwrap();
    let offered = |bytes: &[u8]| {
        let server = Server::serving(bytes.to_vec());
        let entry = entry(&[bundle(&server, &sha256(bytes), bytes.len())]);
        (server, entry)
    };
    let another = OciSource {
        reference: "docker.io/library/alpine:3.20".into(),
        digest: Some(format!("sha256:{}", "a".repeat(64)).parse().unwrap()),
        platform: None,
    };
    let also = serde_json::to_value([Source::Oci(another)]).unwrap();
    let long = format!("\u{1b}[31m{}", "W".repeat(1000));
    let (_server, claims) = offered(&with_manifest(&bytes, |manifest| {
        (manifest["also"], manifest["os"]) = (also, long.into());
    }));
    let kept = pull(&host, &claims).unwrap_or_else(|error| panic!("{}", chain(&error))).manifest;
    assert_eq!((&kept.id, kept.also), (&image.manifest.id, vec![]));
    assert_eq!(kept.os, Some(format!("[31m{}", "W".repeat(124))), "a line that is fit to be shown");
    assert!(kept.created_at >= image.manifest.created_at, "it was made here: {}", kept.created_at);
    host.store.delete(&kept.id, &host.cancel).unwrap();

    let changes: [(&str, Value, &str); 4] = [
        ("init", json!("sbin/init"), "no absolute path"),
        ("config", json!({"env": {"A": "\0"}}), "a zero byte"),
        ("config", json!({"workdir": "srv"}), "not an absolute path"),
        ("size_bytes", json!(4096), "bytes, not 4096"),
    ];
    for (key, value, why) in changes {
        let (_server, bad) = offered(&with_manifest(&bytes, |manifest| manifest[key] = value));
        let said = chain(&pull(&host, &bad).unwrap_err());
        assert!(said.contains("the bundle is not an image") && said.contains(why), "{said}");
        host.nothing_left();
    }
    // A file system that no guest mounts, however well its digest fits.
    let (_server, foreign) = offered(&changed(&bytes, |manifest, rootfs| {
        rootfs[1024 + 0x62] |= 1;
        let digest = sha256(rootfs);
        (manifest["id"], manifest["digest"]) = (digest[..16].into(), format!("sha256:{digest}").into());
    }));
    let said = chain(&pull(&host, &foreign).unwrap_err());
    assert!(said.contains("its rootfs.ext4: its file system has features") && said.contains("encrypt"), "{said}");
    host.nothing_left();
}

#[test]
fn a_bundle_has_no_say_in_how_anybody_elses_image_is_run() {
    let (content, _) = one_image();
    content.image("served", &served(), &json!({"Cmd": ["serve"], "User": "1000"}));
    let registry = content.serve();
    for (tag, run) in [("v1", json!(null)), ("served", json!({"user": "1000", "cmd": ["serve"]}))] {
        let host = Host::new();
        let job = Job { progress: &Silent, cancel: &host.cancel };
        let config = |image: &Kept| serde_json::to_value(&image.manifest.config).unwrap();
        let image = host.image(&reference(&registry, tag));
        assert_eq!(config(&image), run);
        let file = host.dir.path().join("app.tar.zst");
        host.store.bundle(&image.manifest.id, &file, &job).unwrap();
        let honest = fs::read(&file).unwrap();
        let lie = with_manifest(&honest, |manifest| {
            manifest["config"] = json!({"env": {"BASH_ENV": "/tmp/x"}, "user": "0"});
            (manifest["arch"], manifest["os"]) = ("aarch64".into(), "Another".into());
        });
        let offered = |bytes: &[u8]| {
            let server = Server::serving(bytes.to_vec());
            let entry = entry(&[bundle(&server, &sha256(bytes), bytes.len())]);
            (server, entry)
        };
        let ((_one, honest), (_two, lie)) = (offered(&honest), offered(&lie));
        let told = |error: ImageError| matches!(error.root(), ImageError::Disputed { .. });
        // What comes later than the image is the image.
        assert_eq!(config(&pull(&host, &lie).unwrap()), run);

        host.store.delete(&image.manifest.id, &host.cancel).unwrap();
        // Where it is lost and somebody relies on it, its word is not a bundle's to give.
        let relied_on = |id: &ImageId| Ok(*id == image.manifest.id);
        let missed = pull_unless(&host, &lie, &relied_on).unwrap_err();
        assert!(matches!(missed.root(), ImageError::Missed { .. }), "{}", chain(&missed));
        host.nothing_left();
        assert_eq!(config(&pull(&host, &lie).unwrap())["env"]["BASH_ENV"], "/tmp/x", "under its own name");
        // Of two strangers neither speaks for the other.
        assert!(told(pull(&host, &honest).unwrap_err()));
        // The image itself says what it is, and that stands from then on.
        let back = host.image(&reference(&registry, tag));
        assert_eq!((config(&back), &back.manifest.arch), (run.clone(), &image.manifest.arch));
        assert_eq!(
            (&back.manifest.os, &back.manifest.kernel),
            (&image.manifest.os, &None),
            "nor with a bundle's kernel"
        );
        assert_eq!(host.store.get(&back.manifest.id).unwrap(), back);
        assert_eq!(config(&pull(&host, &lie).unwrap()), run);

        // It does while the disk may not have all of it, too.
        let mark = back.rootfs.with_file_name(".unsynced");
        let synced = || if mark.exists() { Err("it is marked".to_owned()) } else { Ok(()) };
        wait_until(Duration::from_secs(60), "an image on the disk", synced);
        fs::write(&mark, "another boot\n").unwrap();
        let (_three, late) =
            offered(&with_manifest(&fs::read(&file).unwrap(), |it| it["config"] = json!({"user": "7"})));
        assert!(told(pull(&host, &late).unwrap_err()));
        assert_eq!(config(&host.store.get(&back.manifest.id).unwrap()), run);
        // One that says the same of the commands brings the bytes again, and no other word of its own.
        let (_four, same) = offered(&with_manifest(&fs::read(&file).unwrap(), |it| {
            (it["os"], it["init"]) = ("Another".into(), "/tmp/init".into());
        }));
        let whole = pull(&host, &same).unwrap_or_else(|error| panic!("{}", chain(&error))).manifest;
        assert_ne!(fs::read_to_string(&mark).unwrap_or_default(), "another boot\n");
        assert_eq!(
            (&whole.source, &whole.os, &whole.init),
            (&back.manifest.source, &back.manifest.os, &back.manifest.init)
        );
        assert_eq!(whole.kernel, None);
        assert!(matches!(whole.also.last(), Some(Source::Bundle(_))), "{:?}", whole.also);
    }
}

#[test]
fn a_bundle_whose_word_does_not_count_is_told_so() {
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);
    impl Progress for Recorder {
        fn phase(&self, _what: &str) {}
        fn advance(&self, _done: u64, _total: Option<u64>) {}
        fn notice(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    let image = host.image(&reference(&registry, "v1"));
    let file = host.dir.path().join("app.tar.zst");
    host.store.bundle(&image.manifest.id, &file, &Job { progress: &Silent, cancel: &host.cancel }).unwrap();
    let other = with_manifest(&fs::read(&file).unwrap(), |it| it["config"] = json!({"user": "7"}));
    let server = Server::serving(other.clone());
    let entry = entry(&[bundle(&server, &sha256(&other), other.len())]);
    let told = |expected: &[&str], work: &dyn Fn(&Job<'_>)| {
        let recorder = Recorder::default();
        work(&Job { progress: &recorder, cancel: &host.cancel });
        let lines = recorder.0.into_inner().unwrap();
        let all = lines.len() == expected.len() && lines.iter().zip(expected).all(|(said, part)| said.contains(part));
        assert!(all, "{lines:#?}, not {expected:#?}");
    };
    let from_bundle =
        |job: &Job<'_>| drop(host.store.pull(&entry, &host.registries, &|_: &ImageId| Ok(false), job).unwrap());
    told(&["run as that one says, not as this one"], &from_bundle);
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    told(&[], &from_bundle);
    let source = reference(&registry, "v1");
    let from_registry = |job: &Job<'_>| drop(host.pull_watched(&source, job.progress).unwrap());
    let news = ["its commands were run in another way; from now on", "recommends no kernel now"];
    told(&news, &from_registry);
    told(&[], &from_registry);
}

#[test]
fn what_a_file_of_ones_own_says_of_its_commands_is_nothing_until_its_image_comes() {
    let content = Content::default();
    content.image("v1", &served(), &json!({"Cmd": ["serve"]}));
    let registry = content.serve();
    let host = Host::new();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let image = host.image(&reference(&registry, "v1"));
    let own = host.dir.path().join("own.ext4");
    fs::copy(&image.rootfs, &own).unwrap();
    host.store.delete(&image.manifest.id, &host.cancel).unwrap();
    let registered = host.store.register(&"own".parse().unwrap(), &own, KernelChoice::Unchanged, &job).unwrap();
    let promoted = host.store.promote(&registered.manifest.id, &job).unwrap().manifest;
    assert_eq!((&promoted.id, promoted.config), (&image.manifest.id, None));
    let back = host.image(&reference(&registry, "v1")).manifest;
    assert_eq!((back.id, back.config), (image.manifest.id.clone(), image.manifest.config.clone()));
    // Another copy of it takes nothing away again.
    fs::copy(&own, host.dir.path().join("more.ext4")).unwrap();
    let more = host.dir.path().join("more.ext4");
    let more = host.store.register(&"more".parse().unwrap(), &more, KernelChoice::Unchanged, &job).unwrap();
    assert_eq!(host.store.promote(&more.manifest.id, &job).unwrap().manifest.config, image.manifest.config);
}

/// Returns one layer, as [`Content::image`] takes it.
fn served() -> [(Vec<u8>, Vec<u8>, &'static str); 1] {
    let layer = Layer::new().file("a", "served").done();
    [(layer.clone(), layer, OCI_LAYER)]
}

#[test]
fn a_promoted_file_with_a_tail_can_be_published() {
    let (content, _) = one_image();
    let registry = content.serve();
    let host = Host::new();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let own = host.dir.path().join("own.ext4");
    fs::copy(host.image(&reference(&registry, "v1")).rootfs, &own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    let tail = fs::File::options().append(true).open(&own).unwrap();
    tail.set_len(tail.metadata().unwrap().len() + 4096).unwrap();
    let kernel: KernelName = "k-1.0".parse().unwrap();
    host.store.register(&"own".parse().unwrap(), &own, KernelChoice::Named(kernel.clone()), &job).unwrap();
    // Registered again, without a kernel and under another name, it recommends what it did.
    let registered = host.store.register(&"again".parse().unwrap(), &own, KernelChoice::Unchanged, &job).unwrap();
    let kernel = Some(kernel);
    assert_eq!(registered.manifest.kernel, kernel);
    let promoted = host.store.promote(&registered.manifest.id, &job).unwrap().manifest;
    let file = host.dir.path().join("own.tar.zst");
    let written = host.store.bundle(&promoted.id, &file, &job).unwrap();
    host.store.delete(&promoted.id, &host.cancel).unwrap();
    let server = Server::serving(fs::read(&file).unwrap());
    let size = usize::try_from(written.size).unwrap();
    let back = pull(&host, &entry(&[bundle(&server, &written.sha256, size)]));
    let back = back.unwrap_or_else(|error| panic!("{}", chain(&error))).manifest;
    assert_eq!((&back.id, &back.digest), (&promoted.id, &promoted.digest));
    host.store.verify(&back.id, Depth::Full, &job).unwrap();
}
