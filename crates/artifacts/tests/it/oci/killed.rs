//! Pulls that are killed at every step, that find the disk full in the middle, and what they leave.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    interrupted::noise,
    layers::{Layer, gzip},
    registry::{Content, Host, OCI_LAYER, chain, names, reference},
};
use crate::{ext4::Image, full::Tmpfs, web::Server};
use banger_artifacts::{
    image::ImageStore,
    job::{Cancel, Part, PartState, Progress},
    oci::BlobCache,
};
use banger_testkit::require;
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The steps of a pull, by what its progress says; `halfway` is in the middle of a layer, `written` in that of the image.
const STEPS: [&str; 6] =
    ["asking for", "getting 2 layers", "halfway", "writing the image", "written", "saving the image"];

/// Says a line when it comes to the step it is told to stop at, and goes no further.
struct StopAt(String);

impl Progress for StopAt {
    fn phase(&self, what: &str) {
        if !self.0.is_empty() && what.contains(&self.0) {
            say("stopped");
            loop {
                std::thread::park();
            }
        }
    }

    fn advance(&self, done: u64, _: Option<u64>) {
        if done > 0 {
            self.phase("written");
        }
    }

    fn part(&self, part: &Part<'_>) {
        if part.state == PartState::Coming && part.done > 0 && part.done < part.total {
            self.phase("halfway");
        }
    }
}

/// Past the test harness, which keeps what tests print.
fn say(line: &str) {
    let mut stdout = fs::File::options().write(true).open("/proc/self/fd/1").unwrap();
    stdout.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
}

/// Not a test by itself: the others start it as a process that they may kill.
#[test]
fn child() {
    let Ok(source) = std::env::var("BANGER_TEST_PULL") else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let host = Host::within(Path::new(&var("BANGER_TEST_ROOT")));
    let pulled =
        host.pull_watched(&source, &StopAt(var("BANGER_TEST_STOP"))).unwrap_or_else(|e| panic!("{}", chain(&e)));
    say(&format!("done {}", pulled.image.manifest.id));
}

/// A child that goes with the test.
struct Pull(Child);

impl Pull {
    /// The next thing it says; `None` when it ends instead.
    fn heard(&mut self) -> Option<String> {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(root: &Path, source: &str, stop: &str) -> Pull {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "oci::killed::child", "--nocapture", "--test-threads=1"])
        .env("BANGER_TEST_PULL", source)
        .env("BANGER_TEST_ROOT", root)
        .env("BANGER_TEST_STOP", stop)
        .stdout(Stdio::piped())
        .spawn();
    Pull(child.unwrap())
}

/// Two layers, one of them longer than progress is told in one piece.
fn served() -> (Server, Content) {
    let content = Content::default();
    let (large, small) = (Layer::new().file("noise", noise(12 << 20)).done(), Layer::new().file("a", "a").done());
    let kind = format!("{OCI_LAYER}+gzip");
    content.image("v1", &[(large.clone(), gzip(&large), &kind), (small.clone(), gzip(&small), &kind)], &Value::Null);
    (content.serve(), content)
}

/// What is in a directory, hidden files too, but for locks: a killed holder's file excludes nobody.
fn stored(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| !name.starts_with(".lock-")).collect()
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
        let mut killed = start(dir.path(), &source, step);
        assert_eq!(killed.heard().as_deref(), Some("stopped"), "{step}");
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
        let mut again = start(dir.path(), &source, "");
        let done = format!("done {}", undisturbed.manifest.id);
        assert_eq!(again.heard(), Some(done), "{step}");
        assert!(again.0.wait().unwrap().success());
        assert_eq!(stored(&images), [undisturbed.manifest.id.to_string()], "{step}: the next one swept");
        assert!(stored(&blobs).iter().all(|name| !name.starts_with('.')), "{step}: {:?}", stored(&blobs));
        let image = others.get(&undisturbed.manifest.id).unwrap();
        assert_eq!(Image::open(&image.rootfs).read("/a"), b"a");
        assert!(fs::read(&image.rootfs).unwrap() == fs::read(&undisturbed.rootfs).unwrap(), "{step}");
    }
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
    // Which directory is too small, and for what: the large layer's contents, what makes a file system of them, the cache.
    for (small, size, said) in [
        ("images", "8m", "layer 1 of 2"),
        ("images", "12300k", "cannot pull image app: cannot write the image"),
        ("blobs", "8m", "write to the cache"),
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
