//! Tests of Debian builds with a fake bootstrap: what it leaves when it is killed, and that one build serves two.

#![expect(clippy::unwrap_used, reason = "tests panic")]

use super::{
    child::{self, CANCEL, PROGRAMS, stored},
    interrupted::noise,
    registry::{Host, chain, names},
};
use crate::{ext4::Image, full::Tmpfs};
use banger_artifacts::{
    image::{DebianRecipe, Depth, ImageError, Source},
    job::{Cancel, Job, Progress, Silent},
    program::Program,
};
use banger_testkit::{Launcher, marked_processes, require, wait_until};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ordinary user id, which need not exist on this host.
const USER: u32 = 61_234;
/// First of the user's subordinate ids, of users and of groups.
const SUBORDINATE: u32 = 2_000_000;
/// Another group of the user.
const GROUP: u32 = 61_235;

/// Fake bootstrap that works like the real one: gives files to other users, mounts something, has a helper that leaves
/// its process group, and deletes what it made at the end or after a failure of its own. It ignores termination, and
/// goes no further than it is told.
const MESSY: &str = r#"#!/bin/sh
trap '' TERM
moment=$(cat "$(dirname "$0")/moment")
stays() {
    [ "$moment" != "$1" ] || while :; do sleep 300; done
}
root=$(mktemp -d "$TMPDIR/mmdebstrap.XXXXXX") && chmod 755 "$root" || exit
mkdir -p "$root/proc" "$root/etc/apt/sources.list.d" "$root/var/lib/private/deep" || exit
echo 'PRETTY_NAME="A small one"' >"$root/etc/os-release"
: >"$root/var/lib/private/deep/file"
chown -R 42:42 "$root/var/lib/private" && chmod 700 "$root/var/lib/private" || exit
mount -t tmpfs none "$root/proc" && : >"$root/proc/mounted" || exit
setsid sleep 300 &
echo "I: installing essential packages..." >&2
stays installing
umount "$root/proc" || exit
if [ "$moment" = failing ]; then
    echo "E: it is broken" >&2
    echo "I: removing tempdir $root..." >&2
    stays failing
fi
echo "I: creating tarball..." >&2
if [ "$moment" = packing ]; then
    tar -cf - -C "$root" . | head -c 700
    stays packing
fi
tar -cf - -C "$root" .
rm -r "$root/etc"
echo "I: removing tempdir $root..." >&2
stays deleting
exec rm -r "$root"
"#;
/// Steps at which it stops, and what is reported of it there.
const STOPS: [(&str, &str); 4] = [
    ("installing", "installing the base system"),
    ("packing", "reading the new system"),
    ("deleting", "deleting what it was made of"),
    ("failing", "deleting what it was made of"),
];

/// Fake bootstrap that ends when it is allowed to, and prints a tree.
const PATIENT: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo begun >>"$here/begun"
until [ -e "$here/go" ]; do sleep 0.1; done
exec tar -cf - -C "$here/tree" .
"#;

/// Fake bootstrap that fills its working directory, and reports it as mmdebstrap does.
const FILLING: &str = r#"#!/bin/sh
root=$(mktemp -d "$TMPDIR/mmdebstrap.XXXXXX") || exit
said=$(head -c 16M /dev/zero 2>&1 >"$root/packages") && exit 3
echo "E: $said" >&2
exit 25
"#;

/// Directory for a store, with this program for bootstraps. Not in /var/tmp, wherever tests keep their files: a
/// bootstrap has another one.
fn store_dir(program: &str) -> tempfile::TempDir {
    store_dir_in(Path::new(env!("CARGO_TARGET_TMPDIR")), program)
}

fn store_dir_in(base: &Path, program: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(base).unwrap();
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

/// Not a test by itself: child process that builds on a full filesystem, with the programs its parent gave it.
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

/// User who builds in `root`, with a copy of this program.
struct Builder<'a> {
    root: &'a Path,
    launcher: Launcher,
    program: PathBuf,
    /// Whether what it starts is in a pid namespace, which has ended when its first process has.
    contained: bool,
}

impl Builder<'_> {
    /// Starts a build that stops at a given step.
    fn start(&self, moment: &str, stop: &str) -> child::Work {
        fs::write(self.root.join(PROGRAMS).join("moment"), moment).unwrap();
        child::start_by(&self.launcher, &self.program, self.root, "build bookworm", stop)
    }

    /// Checks that a build killed at any step leaves nothing that the next one does not remove.
    fn ends_at_any_moment(&self) {
        let images = self.root.join("images");
        let before = names(self.root);
        for (moment, said) in STOPS {
            let mut killed = self.start(moment, said);
            assert_eq!(killed.next_line().as_deref(), Some("stopped"), "{moment}");
            assert!(!marked_processes(self.root).is_empty());
            // What it mounts is for itself, and what it makes is where the next one sweeps.
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(self.root.to_str().unwrap()), "{mounts}");
            assert_eq!(names(self.root), before, "{moment}");
            drop(killed);
            wait_until(PATIENCE, "the end of all that it started", || self.none_left());
            assert_eq!(stored(&images).len(), 1, "{moment}: {:?}", stored(&images));

            let mut cancelled = self.start(moment, &format!("{CANCEL}{said}"));
            assert_eq!(cancelled.next_line().as_deref(), Some("cancelled"), "{moment}");
            cancelled.assert_success();
            if self.contained {
                self.none_left().unwrap_or_else(|left| panic!("{moment}: {left}"));
            } else {
                // Killed, and gone as soon as a processor is free for that.
                wait_until(PATIENCE, "the end of all that it started", || self.none_left());
            }
            assert_eq!(stored(&images), Vec::<String>::new(), "{moment}");
        }
        // Nor does one that is at something else.
        for step in ["starting mmdebstrap", "writing the image", "saving the image"] {
            let mut killed = self.start("none", step);
            assert_eq!(killed.next_line().as_deref(), Some("stopped"), "{step}");
            drop(killed);
            wait_until(PATIENCE, "the end of all that it started", || self.none_left());
        }
        let mut whole = self.start("none", "");
        let done = whole.next_line().unwrap();
        whole.assert_success();
        assert_eq!(stored(&images), [done.strip_prefix("done ").unwrap()]);
        let image = Image::open(&images.join(&stored(&images)[0]).join("rootfs.ext4"));
        assert!(image.exists("/var/lib/private/deep/file"));
    }

    fn none_left(&self) -> Result<(), String> {
        let left = marked_processes(self.root);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    }
}

#[test]
fn a_bootstrap_that_ends_at_any_moment_leaves_no_mount_no_process_and_no_file() {
    if !require("apt") || !require("mount") {
        return;
    }
    let dir = store_dir(MESSY);
    let builder = Builder {
        root: dir.path(),
        launcher: Launcher::default(),
        program: std::env::current_exe().unwrap(),
        contained: true,
    };
    builder.ends_at_any_moment();
}

#[test]
fn nor_does_an_ordinary_users() {
    if !require("apt") || !require("root") || !require("mount") || !require("uidmap") {
        return;
    }
    // Where others get to.
    let dir = store_dir_in(Path::new("/tmp"), MESSY);
    Builder::of_a_user(dir.path()).ends_at_any_moment();
}

#[test]
fn what_an_ordinary_users_left_goes_where_none_but_a_group_of_the_user_gets_to() {
    if !require("root") || !require("mount") || !require("uidmap") {
        return;
    }
    let shared = tempfile::tempdir_in("/tmp").unwrap();
    let root = shared.path().join("home");
    fs::create_dir(&root).unwrap();
    drop(Host::within(&root));
    bootstraps_with(&root, MESSY);
    let mut builder = Builder::of_a_user(&root);
    chown(shared.path(), Some(0), Some(GROUP)).unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o750)).unwrap();
    builder.launcher.group = Some(GROUP);
    // As a killed one leaves it: what only root of the user's subordinate ids can take away.
    let images = root.join("images");
    let (left, theirs) = (images.join(".staging-left"), images.join(".staging-left/theirs"));
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("file"), "").unwrap();
    chown(&left, Some(USER), Some(USER)).unwrap();
    chown(&theirs, Some(SUBORDINATE + 42), Some(SUBORDINATE + 42)).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    let mut next = child::start_by(&builder.launcher, &builder.program, &root, "prune", "");
    assert_eq!(next.next_line().as_deref(), Some("pruned 0"));
    next.assert_success();
    assert_eq!(stored(&images), Vec::<String>::new());
}

#[test]
fn nor_does_one_where_nothing_can_be_contained() {
    if !require("apt") || !require("root") {
        return;
    }
    // Nothing is mounted then, and what leaves its process group would stay.
    let bare = MESSY
        .replace("mount -t tmpfs none \"$root/proc\" && : >\"$root/proc/mounted\" || exit\n", "")
        .replace("umount \"$root/proc\" || exit\n", "")
        .replace("setsid sleep", "sleep")
        .replace("trap ''", "echo \"$*\" >\"$(dirname \"$0\")/asked\"\ntrap ''");
    assert!(!bare.contains("mount") && bare.contains("/asked"), "{bare}");
    let dir = store_dir(&bare);
    let programs = dir.path().join(PROGRAMS);
    let no_namespaces = programs.join("unshare");
    fs::write(&no_namespaces, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&no_namespaces, fs::Permissions::from_mode(0o755)).unwrap();
    let builder = Builder {
        root: dir.path(),
        launcher: Launcher::default(),
        program: std::env::current_exe().unwrap(),
        contained: false,
    };
    builder.ends_at_any_moment();
    let asked = fs::read_to_string(programs.join("asked")).unwrap();
    assert!(asked.contains("--mode=root --skip=chroot/mount "), "{asked}");
    // Which is what the real one calls it: what it does not know it passes over.
    let real = fs::read_to_string(Program::find("mmdebstrap").unwrap()).unwrap();
    assert!(real.contains("^chroot/mount(?:/proc)?$"));
}

impl<'a> Builder<'a> {
    /// Returns an ordinary user with subordinate ids, whose store is in `root`.
    fn of_a_user(root: &'a Path) -> Self {
        let program = root.join(PROGRAMS).join("test");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        // Others than the user run what is in there; what is the user's is in directories that only the user gets to.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [root.to_owned(), root.join("images"), root.join("blobs")] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        let mut launcher = Launcher::user(USER, None);
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        for (file, text) in [
            ("passwd", format!("{passwd}somebody:x:{USER}:{USER}::/nonexistent:/bin/sh\n")),
            ("subuid", format!("somebody:{SUBORDINATE}:65536\n")),
            ("subgid", format!("somebody:{SUBORDINATE}:65536\n")),
        ] {
            let path = root.join(PROGRAMS).join(file);
            fs::write(&path, text).unwrap();
            launcher.binds.push((path, Path::new("/etc").join(file)));
        }
        Self { root, launcher, program, contained: true }
    }
}

/// Lets a bootstrap end once another build waits for it.
struct Go(PathBuf);

impl Progress for Go {
    fn phase(&self, what: &str) {
        if what == "waiting for another build of this image" {
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
    let dir = store_dir(PATIENT);
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
    assert_eq!(first.next_line(), Some(format!("done {}", image.manifest.id)));
    first.assert_success();
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
