//! Debians that are built by a bootstrap of the tests' own: what it leaves when it is killed, and that one does for two.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    child::{self, PROGRAMS, stored},
    interrupted::noise,
    registry::{Host, chain, names},
};
use crate::{ext4::Image, full::Tmpfs};
use banger_artifacts::{
    image::{DebianRecipe, Depth, ImageError, Source},
    job::{Cancel, Job, Progress, Silent},
};
use banger_testkit::{marked_processes, require, wait_until};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Mounts something, has a helper that leaves its process group, and does not listen when it is to end.
const MESSY: &str = r#"#!/bin/sh
trap '' TERM
root=$(mktemp -d "$TMPDIR/mmdebstrap.XXXXXX") && mkdir "$root/proc" && mount -t tmpfs none "$root/proc" || exit
: >"$root/proc/mounted"
setsid sh -c 'echo "I: installing essential packages..." >&2; exec sleep 300' &
wait
"#;

/// Begins, ends when it may, and gives a tree.
const PATIENT: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo begun >>"$here/begun"
until [ -e "$here/go" ]; do sleep 0.1; done
exec tar -cf - -C "$here/tree" .
"#;

/// Fills the directory it works in, and says what mmdebstrap says of that.
const FILLING: &str = r#"#!/bin/sh
root=$(mktemp -d "$TMPDIR/mmdebstrap.XXXXXX") || exit
said=$(head -c 16M /dev/zero 2>&1 >"$root/packages") && exit 3
echo "E: $said" >&2
exit 25
"#;

/// A place for a store, with this program for bootstraps. Not in /var/tmp, wherever tests keep what is theirs: a bootstrap
/// has another one.
fn place(program: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    drop(Host::within(dir.path()));
    bootstraps_with(dir.path(), program);
    dir
}

fn bootstraps_with(dir: &Path, program: &str) {
    let programs = dir.join(PROGRAMS);
    fs::create_dir(&programs).unwrap();
    let path = programs.join("mmdebstrap");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Not a test by itself: builds where there is no room, with the programs its parent gave it.
#[test]
fn crowded_child() {
    let Ok(root) = std::env::var("BANGER_TEST_CROWDED") else { return };
    let host = Host::within(Path::new(&root));
    let recipe = DebianRecipe::new("bookworm", Vec::new()).unwrap();
    let job = Job { progress: &Silent, cancel: &host.cancel };
    let error = host.store.build_debian(&"small".parse().unwrap(), &recipe, None, &job).unwrap_err();
    let full = if ImageError::is_out_of_space(&error) { "full" } else { "other" };
    fs::write(std::env::var("BANGER_TEST_SAYS").unwrap(), format!("{full}: {}", chain(&error))).unwrap();
}

#[test]
fn a_build_that_finds_no_room_says_so_and_leaves_nothing() {
    if !require("apt") || !require("mount") {
        return;
    }
    // The bootstrap runs out of it; then there is none for what it made.
    for program in [FILLING, PATIENT] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        bootstraps_with(dir.path(), program);
        let programs = dir.path().join(PROGRAMS);
        fs::write(programs.join("go"), "").unwrap();
        fs::create_dir(programs.join("tree")).unwrap();
        fs::write(programs.join("tree/noise"), noise(16 << 20)).unwrap();
        let (small, says) = (Tmpfs::mount(&dir.path().join("small"), "4m"), dir.path().join("says"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "oci::built::crowded_child"])
            .env("BANGER_TEST_CROWDED", small.path())
            .env("BANGER_TEST_SAYS", &says)
            .env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()))
            .env("TMPDIR", small.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let said = fs::read_to_string(says).unwrap();
        assert!(said.starts_with("full: ") && said.contains("No space left on device"), "{said}");
        Host::within(small.path()).nothing_left();
        assert_eq!(names(small.path()), ["blobs", "images"]);
    }
}

#[test]
fn a_bootstrap_that_is_killed_leaves_no_mount_no_process_and_no_file() {
    if !require("apt") || !require("mount") {
        return;
    }
    let dir = place(MESSY);
    let root = dir.path();
    let mut killed = child::start(root, "build bookworm", "installing the base system");
    assert_eq!(killed.heard().as_deref(), Some("stopped"));
    assert!(!marked_processes(root).is_empty());
    // What it mounts is for itself, and what it makes is where the next one sweeps.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()), "{mounts}");
    assert_eq!(names(root), ["blobs", "images", PROGRAMS]);
    drop(killed);
    wait_until(PATIENCE, "the end of all that it started", || match marked_processes(root) {
        none if none.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    Host::within(root).nothing_left();
}

/// Lets a bootstrap end once somebody else waits for it.
struct Go(PathBuf);

impl Progress for Go {
    fn phase(&self, what: &str) {
        if what == "waiting for any other build of this image" {
            fs::write(&self.0, "").unwrap();
        }
    }

    fn advance(&self, _: u64, _: Option<u64>) {}
}

#[test]
fn a_debian_is_built_once_for_two_who_ask() {
    if !require("apt") {
        return;
    }
    let dir = place(PATIENT);
    let (root, programs) = (dir.path(), dir.path().join(PROGRAMS));
    let tree = programs.join("tree/etc");
    fs::create_dir_all(tree.join("apt/sources.list.d")).unwrap();
    fs::write(tree.join("os-release"), "PRETTY_NAME=\"A small one\"\n").unwrap();
    fs::write(tree.join("machine-id"), "that of the bootstrap\n").unwrap();
    let mut first = child::start(root, "build bookworm", "");
    let begun = || fs::read_to_string(programs.join("begun")).unwrap_or_default();
    wait_until(PATIENCE, "a bootstrap", || if begun().is_empty() { Err("none yet".into()) } else { Ok(()) });

    let (host, recipe) = (Host::within(root), DebianRecipe::new("bookworm", Vec::new()).unwrap());
    let cancel = Cancel::default();
    let job = Job { progress: &Go(programs.join("go")), cancel: &cancel };
    let image = host.store.build_debian(&"small".parse().unwrap(), &recipe, None, &job).unwrap();
    assert_eq!(first.heard(), Some(format!("done {}", image.manifest.id)));
    first.ends_well();
    assert_eq!((begun().as_str(), stored(&root.join("images"))), ("begun\n", vec![image.manifest.id.to_string()]));

    host.store.verify(&image.manifest.id, Depth::Full, &Job { progress: &Silent, cancel: &cancel }).unwrap();
    assert_eq!(image.manifest.source, Source::Mmdebstrap(recipe));
    assert_eq!(image.manifest.os.as_deref(), Some("A small one"));
    // Nothing of what it was made with is beside it, and nothing in it that tells one machine from another.
    let mut beside = names(image.rootfs.parent().unwrap());
    beside.retain(|name| name != ".unsynced");
    assert_eq!(beside, ["manifest.json", "rootfs.ext4"]);
    let inside = Image::open(&image.rootfs);
    assert_eq!(inside.read("/etc/machine-id"), b"");
    let sources = String::from_utf8(inside.read("/etc/apt/sources.list.d/debian.sources")).unwrap();
    assert!(sources.contains("Suites: bookworm") && sources.contains("debian-archive-keyring"), "{sources}");
}
