//! The store with images that need no bootstrap.

use super::*;
use crate::{
    image::OciSource,
    job::Silent,
    publish::Staging,
    rootfs::{Meta, Timestamp},
};
use std::{fs, os::unix::fs::PermissionsExt};

/// Changes with every boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    (dir, store)
}

/// Publishes an image that holds one file with this content.
fn publish(store: &ImageStore, content: &str) -> Image {
    publish_with(store, content, |staging, manifest| {
        let lock = store.shelf.lock(manifest.id.as_str(), &Cancel::default()).unwrap();
        store.shelf.publish(staging, &lock).unwrap();
        store.get(&manifest.id).unwrap()
    })
}

/// The same, by `publish`.
fn publish_with(store: &ImageStore, content: &str, put: impl FnOnce(Staging, &ImageManifest) -> Image) -> Image {
    let cancel = Cancel::default();
    let job = Job { progress: &Silent, cancel: &cancel };
    let staging = store.shelf.stage().unwrap();
    let mut builder = RootfsBuilder::new(staging.path(), Limits::default(), &cancel).unwrap();
    let file = |builder: &mut RootfsBuilder, path: &str, mode, text: &str| {
        let meta = Meta::root(mode, Timestamp::from_secs(1));
        builder.file(path.as_bytes(), meta, text.len() as u64, &mut text.as_bytes()).unwrap();
    };
    file(&mut builder, "content", 0o644, content);
    file(&mut builder, "usr/lib/os-release", 0o644, "PRETTY_NAME=\"Test 1\"\n");
    file(&mut builder, "usr/sbin/init", 0o755, "");
    builder.symlink(b"sbin", b"usr/sbin", Meta::default()).unwrap();
    let draft = Draft {
        name: "test".parse().unwrap(),
        source: Source::Mmdebstrap(DebianRecipe::new("bookworm", Vec::new()).unwrap()),
        kernel: None,
        kernel_chosen: false,
        config: None,
        epoch: 1,
        arch: std::env::consts::ARCH.into(),
    };
    let manifest = draft.write(builder, staging.path(), &job).unwrap();
    put(staging, &manifest)
}

fn verify(store: &ImageStore, id: &ImageId, depth: Depth) -> Result<Image, ImageError> {
    store.verify(id, depth, &Job { progress: &Silent, cancel: &Cancel::default() })
}

#[test]
fn an_image_is_published_listed_verified_and_deleted() {
    let (_dir, store) = store();
    let image = publish(&store, "hello");
    let manifest = &image.manifest;
    assert_eq!(manifest.digest[7..23], *manifest.id.as_str());
    assert_eq!((manifest.os.as_deref(), manifest.init.as_deref()), (Some("Test 1"), Some("/sbin/init")));
    assert_eq!(fs::metadata(&image.rootfs).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(fs::metadata(&image.rootfs).unwrap().len(), manifest.size_bytes);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&image));
    verify(&store, &manifest.id, Depth::Full).unwrap();
    assert!(store.delete(&manifest.id, &Cancel::default()).unwrap());
    assert!(!store.delete(&manifest.id, &Cancel::default()).unwrap());
    assert!(matches!(store.get(&manifest.id), Err(ImageError::NotFound { .. })));
}

#[test]
fn the_same_content_is_the_same_image() {
    let (_dir, store) = store();
    assert_eq!(publish(&store, "a").manifest.id, publish(&store, "a").manifest.id);
    assert_ne!(publish(&store, "a").manifest.id, publish(&store, "b").manifest.id);
}

#[test]
fn only_what_can_be_had_again_need_not_be_on_the_disk() {
    let oci = |reference: &str| Source::Oci(OciSource { reference: reference.into(), digest: None, platform: None });
    assert!(oci("docker.io/library/alpine:3.20").lasts() && oci("127.0.0.1:5000/a/b:v1").lasts());
    let recipe = DebianRecipe::new("bookworm", Vec::new()).unwrap();
    for once in [oci("oci-archive:/home/me/app.tar"), oci("oci:/home/me/layout"), Source::Mmdebstrap(recipe)] {
        assert!(!once.lasts(), "{once}");
    }
}

#[test]
fn after_a_loss_of_power_only_what_the_disk_has_is_there() {
    let (_dir, store) = store();
    let [whole, cut, unreadable, newer] =
        ["whole", "cut", "unreadable", "newer"].map(|content| publish(&store, content));
    // What another boot made, and had no time to sync.
    for Image { rootfs, .. } in [&whole, &cut, &unreadable, &newer] {
        fs::write(rootfs.with_file_name(".unsynced"), "another boot\n").unwrap();
    }
    let allow = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    allow(&cut.rootfs);
    // As long as it should be, with a hole in the place of what was not written.
    let file = File::options().write(true).open(&cut.rootfs).unwrap();
    file.write_all_at(&[0; 4096], cut.manifest.size_bytes / 2).unwrap();
    file.write_all_at(&[0; 4096], 4096).unwrap();
    let manifest = unreadable.rootfs.with_file_name("manifest.json");
    allow(&manifest);
    fs::write(manifest, "").unwrap();
    // What another banger made is its to judge, and what is no image is nobody's.
    let manifest = newer.rootfs.with_file_name("manifest.json");
    allow(&manifest);
    fs::write(manifest, r#"{"version":99}"#).unwrap();
    fs::create_dir(store.shelf.directory().join("lost+found")).unwrap();
    fs::write(store.shelf.directory().join("lost+found/.unsynced"), "another boot\n").unwrap();

    // A start takes its time for none of them.
    let reopened = ImageStore::open(store.shelf.directory()).unwrap();
    assert_eq!(reopened.ids().unwrap().len(), 4);
    assert!(reopened.list_with_problems().unwrap().iter().all(|listed| listed.doubtful));
    let cancel = Cancel::default();
    reopened.settle_all(&Job { progress: &Silent, cancel: &cancel });
    assert_eq!(reopened.list().unwrap(), std::slice::from_ref(&whole));
    let mut left = vec![whole.manifest.id.as_str(), newer.manifest.id.as_str(), "lost+found"];
    left.sort_unstable();
    assert_eq!(reopened.shelf.names().unwrap(), left, "what is gone is gone whole");
    assert_eq!(reopened.shelf.mark(whole.manifest.id.as_str()).unwrap(), None);
    assert!(reopened.is_doubtful(&newer.manifest.id).unwrap());
    verify(&reopened, &whole.manifest.id, Depth::Full).unwrap();
}

/// Remembers the phases.
#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<String>>);

impl crate::job::Progress for Heard {
    fn phase(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    fn advance(&self, _done: u64, _total: Option<u64>) {}
}

#[test]
fn what_is_doubtful_is_read_once_for_all_who_need_it() {
    let (_dir, store) = store();
    let (image, other) = (publish(&store, "hello"), publish(&store, "other"));
    let id = &image.manifest.id;
    fs::write(image.rootfs.with_file_name(".unsynced"), "another boot\n").unwrap();
    // Somebody reads it.
    let lock = store.shelf.lock(&format!("settle-{id}"), &Cancel::default()).unwrap();
    let (heard, cancel) = (Heard::default(), Cancel::default());
    let job = Job { progress: &heard, cancel: &cancel };
    store.settle(&other.manifest.id, &job).unwrap();
    assert!(heard.0.lock().unwrap().is_empty(), "nobody waits for what is not doubtful");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| store.settle(id, &job));
        banger_testkit::wait_until(std::time::Duration::from_secs(60), "a word about the wait", || {
            let heard = heard.0.lock().unwrap();
            if heard.iter().any(|it| it.contains("shortly before this host went down")) {
                Ok(())
            } else {
                Err(format!("{heard:?}"))
            }
        });
        cancel.cancel();
        assert!(waits.join().unwrap().unwrap_err().is_cancelled());
    });
    assert!(store.is_doubtful(id).unwrap());
    drop(lock);
    let job = Job { progress: &Silent, cancel: &Cancel::default() };
    store.settle(id, &job).unwrap();
    assert!(!store.is_doubtful(id).unwrap());
    // Not even its file is looked at any more.
    fs::remove_file(&image.rootfs).unwrap();
    store.settle(id, &job).unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn what_is_made_anew_takes_the_place_of_what_is_doubtful() {
    let (_dir, store) = store();
    let cancel = Cancel::default();
    let job = Job { progress: &Silent, cancel: &cancel };
    let image = publish(&store, "hello");
    for mark in ["another boot\n".to_owned(), format!("failed {}", fs::read_to_string(BOOT_ID).unwrap())] {
        let allow = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        allow(&image.rootfs);
        // A look does not show it.
        let file = File::options().write(true).open(&image.rootfs).unwrap();
        file.write_all_at(b"damaged", image.manifest.size_bytes - 7).unwrap();
        fs::write(image.rootfs.with_file_name(".unsynced"), mark).unwrap();
        let made = publish_with(&store, "hello", |staging, manifest| store.publish(staging, manifest, &job).unwrap());
        assert_eq!(made.manifest.id, image.manifest.id);
        assert_eq!(store.shelf.mark(made.manifest.id.as_str()).unwrap(), None);
        verify(&store, &made.manifest.id, Depth::Full).unwrap();
    }
}

#[test]
fn another_image_under_the_same_id_is_not_taken_for_the_one_that_was_made() {
    let (_dir, store) = store();
    let image = publish(&store, "hello");
    let path = image.rootfs.with_file_name("manifest.json");
    let last = image.manifest.digest.chars().last().unwrap();
    // As if the first 64 bits of two digests were the same.
    let mut other = image.manifest.clone();
    other.digest =
        format!("{}{}", &image.manifest.digest[..image.manifest.digest.len() - 1], if last == '0' { '1' } else { '0' });
    fs::remove_file(&path).unwrap();
    other.write(path.parent().unwrap()).unwrap();
    publish_with(&store, "hello", |staging, manifest| {
        let refused =
            store.publish(staging, manifest, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap_err();
        assert!(matches!(refused, ImageError::Taken { .. }), "{refused:?}");
        store.get(&manifest.id).unwrap()
    });
    assert_eq!(store.get(&image.manifest.id).unwrap().manifest, other);
}

#[test]
fn a_manifest_is_written_anew_with_nothing_beside_it() {
    let (_dir, store) = store();
    let image = publish(&store, "hello");
    let directory = image.rootfs.parent().unwrap();
    let kernel = "k-1".parse().unwrap();
    let lock = store.lock(&image.manifest.id, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap();
    let changed = store.recommend_held(&image.manifest.id, &lock, &kernel).unwrap();
    drop(lock);
    assert_eq!(store.get(&image.manifest.id).unwrap(), changed);
    assert_eq!(changed.manifest.kernel, Some(kernel));
    let manifest = directory.join("manifest.json");
    assert_eq!(fs::metadata(&manifest).unwrap().permissions().mode() & 0o777, 0o444);
    let names = |directory: &Path| {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(directory), ["manifest.json", "rootfs.ext4"]);
    // What is killed in between leaves what the next one sweeps: it is written beside the images, and not in one.
    let lock = store.shelf.lock(image.manifest.id.as_str(), &Cancel::default()).unwrap();
    let staged = store.shelf.stage_file().unwrap();
    assert_eq!(staged.path().parent(), Some(store.shelf.directory()));
    store.shelf.publish_within(staged, &lock, "manifest.json").unwrap();
    assert_eq!((fs::read(&manifest).unwrap().len(), names(directory).len()), (0, 2));
}

#[test]
fn a_look_shows_what_is_wrong() {
    let (dir, store) = store();
    let [whole, cut, garbled] = ["whole", "cut", "garbled"].map(|content| publish(&store, content));
    for path in [&cut.rootfs, &garbled.rootfs.with_file_name("manifest.json")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        File::options().write(true).open(path).unwrap().set_len(1).unwrap();
    }
    let file = dir.path().join("mine.ext4");
    fs::copy(&whole.rootfs, &file).unwrap();
    let job = Job { progress: &Silent, cancel: &Cancel::default() };
    let mine = store.register(&"mine".parse().unwrap(), &file, KernelChoice::Unchanged, &job).unwrap();
    fs::remove_file(file).unwrap();
    let looks = store.list_with_problems().unwrap();
    let look = |image: &Image| looks.iter().find(|look| look.id == image.manifest.id).unwrap();
    assert!(look(&whole).problem.is_none() && look(&whole).image.as_ref() == Some(&whole));
    for (image, known) in [(&cut, true), (&garbled, false), (&mine, true)] {
        let look = look(image);
        assert!(matches!(look.problem, Some(ImageError::Corrupt { .. })), "{look:?}");
        assert_eq!((look.image.is_some(), &look.rootfs, look.doubtful), (known, &image.rootfs, false));
    }
    let since = &look(&garbled).since;
    assert!(since.starts_with("20"), "{since}");
    store.delete(&cut.manifest.id, &Cancel::default()).unwrap();
    assert!(matches!(store.quick_check(&cut.manifest.id), Err(ImageError::NotFound { .. })));
}

#[test]
fn damage_is_noticed() {
    let (_dir, store) = store();
    let image = publish(&store, "hello");
    let id = &image.manifest.id;
    fs::set_permissions(&image.rootfs, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(&image.rootfs).unwrap();

    // One bit of a file's content: only the digest shows it.
    let mut bytes = fs::read(&image.rootfs).unwrap();
    let at = bytes.windows(5).position(|window| window == b"hello").unwrap();
    bytes[at] ^= 1;
    file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    verify(&store, id, Depth::Quick).unwrap();
    let error = verify(&store, id, Depth::Full).unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { source: Corruption::Digest { .. }, .. }), "{error:?}");

    file.write_all_at(&[0; 2], SUPERBLOCK + MAGIC as u64).unwrap();
    let error = verify(&store, id, Depth::Quick).unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { source: Corruption::Superblock, .. }), "{error:?}");

    file.set_len(4096).unwrap();
    let error = verify(&store, id, Depth::Quick).unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { source: Corruption::Size { is: 4096, .. }, .. }), "{error:?}");

    fs::remove_file(&image.rootfs).unwrap();
    let error = verify(&store, id, Depth::Quick).unwrap_err();
    assert!(matches!(error, ImageError::Corrupt { source: Corruption::File(_), .. }), "{error:?}");

    fs::remove_file(image.rootfs.with_file_name("manifest.json")).unwrap();
    assert!(store.list().unwrap().is_empty());
}

fn registries(store: &ImageStore) -> crate::oci::Registries {
    crate::oci::Registries {
        client: crate::fetch::Client::default(),
        credentials: crate::oci::Credentials::default(),
        certificates: Vec::new(),
        cache: crate::oci::BlobCache::open(store.shelf.directory().with_file_name("blobs")).unwrap(),
        limits: crate::oci::Limits::default(),
    }
}

#[test]
fn a_catalog_entry_without_a_usable_source_says_why() {
    let (_dir, store) = store();
    let json = br#"{"version": 1, "entries": [{"name": "x", "arch": "x86_64", "sources": [{"type": "teleport"}]}]}"#;
    let catalog = crate::image::Catalog::parse(json).unwrap();
    let cancel = Cancel::default();
    let error = store
        .pull(
            &catalog.entries()[0],
            &registries(&store),
            &|_: &ImageId| Ok(false),
            &Job { progress: &Silent, cancel: &cancel },
        )
        .unwrap_err();
    assert!(error.is_unsupported(), "{error:?}");
    assert!(error.root().to_string().contains("teleport"), "{error:?}");
}

#[test]
fn a_cancelled_pull_says_so_and_leaves_nothing() {
    let (_dir, store) = store();
    let catalog = crate::image::Catalog::builtin();
    let cancel = Cancel::default();
    cancel.cancel();
    let error = store
        .pull(
            &catalog.entries()[0],
            &registries(&store),
            &|_: &ImageId| Ok(false),
            &Job { progress: &Silent, cancel: &cancel },
        )
        .unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
    assert_eq!(fs::read_dir(store.shelf.directory()).unwrap().count(), 0);
}

#[test]
fn a_registered_file_is_used_where_it_lies_and_refused_once_it_changed() {
    let (dir, store) = store();
    let (cancel, name) = (Cancel::default(), "mine".parse().unwrap());
    let job = Job { progress: &Silent, cancel: &cancel };
    let file = dir.path().join("my root.ext4");
    fs::copy(&publish(&store, "hello").rootfs, &file).unwrap();
    let [kernel, other] = ["generic-6.12", "other-6.12"].map(|name| name.parse::<KernelName>().unwrap());
    let image = store.register(&name, &file, KernelChoice::Named(kernel.clone()), &job).unwrap();
    assert!(!image.is_managed());
    assert_eq!((&image.rootfs, &image.manifest.kernel), (&file.canonicalize().unwrap(), &Some(kernel.clone())));
    assert_eq!(image.manifest.source.to_string(), format!("file {}", image.rootfs.display()));
    let id = &image.manifest.id;
    let stored: Vec<_> = fs::read_dir(dir.path().join("images").join(id.as_str())).unwrap().collect();
    assert_eq!(stored.len(), 1, "nothing but the manifest");
    assert_eq!(verify(&store, id, Depth::Full).unwrap(), image);
    // The same file again is the same image. It keeps the kernel it recommends, unless another one is named, or none.
    for (given, recommended) in [
        (KernelChoice::Unchanged, Some(&kernel)),
        (KernelChoice::Named(other.clone()), Some(&other)),
        (KernelChoice::Unchanged, Some(&other)),
        (KernelChoice::Default, None),
        (KernelChoice::Unchanged, None),
    ] {
        assert_eq!(store.register(&name, &file, given, &job).unwrap().manifest.id, *id);
        assert_eq!(store.get(id).unwrap().manifest.kernel.as_ref(), recommended);
    }

    fs::OpenOptions::new().append(true).open(&file).unwrap().set_len(image.manifest.size_bytes + 4096).unwrap();
    for depth in [Depth::Quick, Depth::Full] {
        let error = verify(&store, id, depth).unwrap_err();
        assert!(matches!(error, ImageError::Corrupt { source: Corruption::Changed { .. }, .. }), "{error:?}");
    }
    let changed = store.register(&name, &file, KernelChoice::Unchanged, &job).unwrap();
    assert_ne!(changed.manifest.id, *id);
    assert!(store.delete(id, &cancel).unwrap());
    assert!(file.exists(), "it is the user's");

    let error = store.register(&name, &dir.path().join("images"), KernelChoice::Unchanged, &job).unwrap_err();
    assert!(matches!(error, ImageError::Register { .. }), "{error:?}");
}
