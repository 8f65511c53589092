//! A real Debian from the host's own sources: small, because what is tested is the way and not the packages.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use crate::ext4::{Image, check};
use banger_artifacts::{
    image::{DebianRecipe, Depth, ImageError, ImageStore, Source},
    job::{Cancel, Job, Progress, Silent},
};
use banger_proto::name::ImageName;
use banger_testkit::require;
use std::{fs, sync::Mutex, thread};

/// Remembers the phases; cancels when one begins.
#[derive(Default)]
struct Heard {
    phases: Mutex<Vec<String>>,
    stop_at: Option<(&'static str, Cancel)>,
}

impl Progress for Heard {
    fn phase(&self, what: &str) {
        self.phases.lock().unwrap().push(what.to_owned());
        if let Some((phase, cancel)) = &self.stop_at
            && what == *phase
        {
            cancel.cancel();
        }
    }

    fn advance(&self, _done: u64, _total: Option<u64>) {}
}

fn name() -> ImageName {
    "small".parse().unwrap()
}

fn recipe() -> DebianRecipe {
    DebianRecipe::new("bookworm", vec!["hello".into()]).unwrap()
}

#[test]
fn a_debian_is_built_once_for_two_who_ask() {
    if !require("apt") || !require("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    let (first, second) = (Heard::default(), Heard::default());
    let cancel = Cancel::default();
    let build = |progress: &Heard| store.build_debian(&name(), &recipe(), None, &Job { progress, cancel: &cancel });
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| build(&first));
        let other = scope.spawn(|| build(&second));
        (one.join().unwrap().unwrap(), other.join().unwrap().unwrap())
    });
    assert_eq!(one, other);
    let phases: Vec<String> =
        [first, second].into_iter().flat_map(|heard| heard.phases.into_inner().unwrap()).collect();
    for phase in
        ["reading Debian's package lists", "installing the base system", "reading the new system", "saving the image"]
    {
        assert_eq!(phases.iter().filter(|heard| *heard == phase).count(), 1, "{phases:?}");
    }
    let left: Vec<_> =
        fs::read_dir(dir.path().join("images")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [one.manifest.id.as_str()]);

    check(&one.rootfs);
    store.verify(&one.manifest.id, Depth::Full, &Job { progress: &Silent, cancel: &cancel }).unwrap();
    assert_eq!(one.manifest.source, Source::Mmdebstrap(recipe()));
    assert!(one.manifest.os.as_deref().unwrap().contains("bookworm"), "{:?}", one.manifest.os);
    let image = Image::open(&one.rootfs);
    assert_eq!((image.read("/etc/machine-id"), image.read("/etc/resolv.conf")), (Vec::new(), Vec::new()));
    for program in ["/bin/sh", "/usr/bin/hello"] {
        assert!(image.read(program).starts_with(b"\x7fELF"), "{program}");
    }
    let status = String::from_utf8(image.read("/var/lib/dpkg/status")).unwrap();
    assert!(status.contains("Package: hello\nStatus: install ok installed\n"), "what was included is installed");
    let sources = String::from_utf8(image.read("/etc/apt/sources.list.d/debian.sources")).unwrap();
    assert!(sources.contains("Suites: bookworm") && sources.contains("debian-archive-keyring"), "{sources}");
    for gone in ["/etc/apt/sources.list.d/0000debian.sources", "/etc/apt/apt.conf.d/99mmdebstrap", "/dev/null"] {
        assert!(!image.exists(gone), "{gone}");
    }
}

#[test]
fn a_cancelled_build_leaves_nothing() {
    if !require("apt") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    let cancel = Cancel::default();
    let heard = Heard { stop_at: Some(("downloading the base system", cancel.clone())), ..Heard::default() };
    let error = store
        .build_debian(&name(), &recipe(), None, &Job { progress: &heard, cancel: &cancel })
        .expect_err("it was cancelled");
    assert!(error.is_cancelled(), "{error:?}");
    assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
}

#[test]
fn a_suite_no_mirror_has_is_an_error_with_apts_words() {
    if !require("apt") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    let recipe = DebianRecipe::new("nosuchsuite", Vec::new()).unwrap();
    let error =
        store.build_debian(&name(), &recipe, None, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap_err();
    let ImageError::Build { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("nosuchsuite Release"), "{source}");
    assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
}
