//! Pulls and imports that are killed at every step: afterwards the old kernel is there or the new one, whole, nothing
//! is left over, and the next attempt works.

use super::{
    super::web::{Server, ok},
    bundle::{catalog, name, packed, small, source},
    child::Child,
    fixture::{Host, Member, RELEASE, bzimage, deb, module, packed_in_rust, tar, vmlinux},
};
use banger_artifacts::{
    job::{Job, Progress},
    kernel::{Codec, KernelError, KernelStore},
};
use banger_testkit::wait_until;
use std::{
    collections::HashSet,
    fs,
    io::Write,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::ExitStatusExt,
    },
    path::PathBuf,
    sync::{Mutex, mpsc},
    time::Duration,
};

/// Long enough for any machine; nothing waits that long unless it is broken.
const LONG: Duration = Duration::from_secs(120);

/// What is in the kernel's initrd says which one it is; all of it has to be right.
fn which(host: &Host) -> String {
    let kernel = host.store.get(&name()).unwrap();
    kernel.verify(&host.job()).unwrap();
    kernel.initrd().map_or_else(|| "no initrd".to_owned(), |initrd| fs::read_to_string(initrd).unwrap())
}

/// Opens the store as the next process does, which sweeps it, and lists what is in it, locks and unfinished work too.
fn swept(host: &Host) -> Vec<String> {
    let root = host.temp.path();
    KernelStore::open(&root.join("kernels"), &root.join("cache")).unwrap();
    let downloads = fs::read_dir(root.join("cache/downloads")).unwrap();
    let left = downloads.map(|entry| format!("downloads/{}", entry.unwrap().file_name().display()));
    host.stored().into_iter().chain(left).collect()
}

/// Kills `task` at each of `stops`, once with `old` there before and once with nothing; then lets it through, and finds
/// `new`.
fn killed_at(stops: &[&str], new: &str, prepare: impl Fn(&Host) -> (String, Option<PathBuf>)) {
    for (stop, first) in stops.iter().flat_map(|stop| [(*stop, false), (*stop, true)]) {
        let host = Host::new();
        if !first {
            host.pull(&small("old")).unwrap();
        }
        let (task, programs) = prepare(&host);
        Child::start(&host, &task, stop, programs.as_deref()).stopped(stop).kill();
        if first {
            assert!(matches!(host.store.get(&name()), Err(KernelError::NotFound { .. })), "{stop}");
        } else {
            assert_eq!(which(&host), "old", "{stop}");
        }
        let there: &[&str] = if first { &[] } else { &["test-6.1"] };
        assert_eq!(swept(&host), there, "{stop}: the next process takes away what the killed one left");
        Child::start(&host, &task, "", programs.as_deref()).done(stop);
        assert_eq!((which(&host).as_str(), host.stored()), (new, vec!["test-6.1".to_owned()]), "{stop}");
    }
}

fn with_modules(mark: &str) -> Vec<Member<'static>> {
    vec![
        Member::File("vmlinux", vmlinux(true)),
        Member::File("initrd.img", mark.as_bytes().to_vec()),
        Member::File("modules/kernel/virtio_ring.ko", module("virtio_ring", "")),
        Member::File("modules/modules.dep", b"kernel/virtio_ring.ko:\n".to_vec()),
    ]
}

/// A package as distributions make them: a bzImage, modules, no indexes unless `indexed`.
fn package(indexed: bool) -> Vec<u8> {
    let elf = vmlinux(true);
    let below = |name: &str| format!("./lib/modules/{RELEASE}/{name}");
    let (vmlinuz, ring, dep) =
        (format!("./boot/vmlinuz-{RELEASE}"), below("kernel/virtio_ring.ko"), below("modules.dep"));
    let mut members = vec![
        Member::File(&vmlinuz, bzimage(Codec::Xz, &packed_in_rust(Codec::Xz, &elf), elf.len())),
        Member::File(&ring, module("virtio_ring", "")),
    ];
    if indexed {
        members.push(Member::File(&dep, b"kernel/virtio_ring.ko:\n".to_vec()));
    }
    deb("amd64", &members)
}

/// A program that is found before the host's own.
fn program(host: &Host, name: &str, script: &str) -> PathBuf {
    let path = host.write(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.parent().unwrap().to_owned()
}

/// A line for a script: says in a file who runs it, and then works for as long as it is let.
fn forever(host: &Host) -> String {
    format!("echo $$ >{0}.new && mv {0}.new {0} && exec sleep infinity", host.path("begun").display())
}

/// Kills `child` in the midst of such a program, which has to end with it.
fn killed_in_the_midst(host: &Host, child: Child) {
    let begun = host.path("begun");
    let pid = wait_until(LONG, "the program to begin", || fs::read_to_string(&begun).map_err(|e| e.to_string()));
    child.kill();
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    wait_until(LONG, "the program to end with the child", || match fs::read_to_string(&stat) {
        Ok(text) if !text.contains(") Z ") => Err(text),
        _ => Ok(()),
    });
    fs::remove_file(begun).unwrap();
}

/// The catalog a child reads.
fn offer(host: &Host, source: &str) {
    let json = format!(
        r#"{{"version":1,"entries":[{{"name":"test-6.1","distro":"tests","arch":"x86_64","kernel_version":"6.1",
            "sources":[{source}]}}]}}"#
    );
    fs::write(host.temp.path().join("catalog.json"), json).unwrap();
}

#[test]
fn a_pull_killed_at_any_step() {
    let bundle = packed(&tar(&with_modules("new")));
    let server = Server::serving(bundle.clone());
    let stops = ["downloading", "halfway", "writing the image", "checking the kernel's files", "bringing kernel"];
    killed_at(&stops, "new", |host| {
        offer(host, &source(&server.url("/b.tar.zst"), &bundle));
        ("pull".to_owned(), None)
    });
}

#[test]
fn an_import_of_a_directory_killed_at_any_step() {
    let stops = ["copying", "writing the image", "checking the kernel's files", "bringing kernel"];
    killed_at(&stops, "new", |host| {
        for member in with_modules("new") {
            let Member::File(path, content) = member else { unreachable!() };
            host.write(&format!("k/{path}"), &content);
        }
        (format!("import {}", host.path("k").display()), None)
    });
}

#[test]
fn an_import_of_a_single_file_killed_at_any_step() {
    let elf = vmlinux(true);
    let stops = ["unpacking the kernel image", "checking the kernel's files", "bringing kernel"];
    killed_at(&stops, "no initrd", |host| {
        let file = host.write("bzImage", &bzimage(Codec::Xz, &packed_in_rust(Codec::Xz, &elf), elf.len()));
        (format!("import {}", file.display()), None)
    });
    killed_at(&stops[1..], "no initrd", |host| (format!("import {}", host.write("vmlinux", &elf).display()), None));
}

#[test]
fn an_import_of_a_package_killed_at_any_step() {
    if !banger_testkit::require("depmod") {
        return;
    }
    let package = package(false);
    let stops = [
        "unpacking linux-image",
        "unpacking the kernel image",
        "indexing kernel modules",
        "writing the image",
        "checking the kernel's files",
        "bringing kernel",
    ];
    killed_at(&stops, "no initrd", |host| (format!("import {}", host.write("linux.deb", &package).display()), None));
}

#[test]
fn an_import_killed_while_depmod_runs_takes_depmod_along() {
    if !banger_testkit::require("depmod") {
        return;
    }
    let host = Host::new();
    host.pull(&small("old")).unwrap();
    let task = format!("import {}", host.write("linux.deb", &package(false)).display());
    let programs = program(&host, "depmod", &forever(&host));
    killed_in_the_midst(&host, Child::start(&host, &task, "", Some(&programs)));
    assert_eq!((which(&host).as_str(), swept(&host)), ("old", vec!["test-6.1".to_owned()]));
    Child::start(&host, &task, "", None).done("with the real depmod");
    assert_eq!(which(&host), "no initrd");
}

/// An apt that knows one package, and whose download goes on for ever while there is a file `slow`.
fn apt(host: &Host) -> PathBuf {
    let deb = host.write("archive/linux.deb", &package(true));
    let content = fs::read(&deb).unwrap();
    let record = format!(
        "Package: linux-image-{RELEASE}\nVersion: 6.1.5-1\nSize: {}\nSHA256: {}",
        content.len(),
        crate::sha256(&content)
    );
    program(host, "apt-cache", &format!("echo '{record}'"));
    let (slow, forever) = (host.path("slow"), forever(host));
    let download = format!("cp {} linux.deb", deb.display());
    program(
        host,
        "apt-get",
        &format!(
            "case \"$*\" in *download*) ;; *) exit 0 ;; esac\n\
             if [ -e {} ]; then touch half.deb; {forever}; fi\n\
             echo dlstatus:1:50:x; {download}",
            slow.display()
        ),
    )
}

#[test]
fn a_pull_through_apt_killed_at_any_step() {
    let stops = [
        "reading the host's package lists",
        "downloading linux-image",
        "halfway",
        "unpacking linux-image",
        "unpacking the kernel image",
        "writing the image",
        "checking the kernel's files",
        "bringing kernel",
    ];
    let source = format!(r#"{{"type":"apt","package":"linux-image-{RELEASE}","kernel":"6.1"}}"#);
    killed_at(&stops, "no initrd", |host| {
        offer(host, &source);
        ("pull".to_owned(), Some(apt(host)))
    });
    let host = Host::new();
    host.pull(&small("old")).unwrap();
    offer(&host, &source);
    let programs = apt(&host);
    host.write("slow", b"");
    killed_in_the_midst(&host, Child::start(&host, "pull", "", Some(&programs)));
    assert_eq!((which(&host).as_str(), swept(&host)), ("old", vec!["test-6.1".to_owned()]));
    fs::remove_file(host.path("slow")).unwrap();
    Child::start(&host, "pull", "", Some(&programs)).done("after a killed download");
    assert_eq!(which(&host), "no initrd");
}

#[test]
fn a_pull_killed_while_it_publishes_leaves_one_of_the_two() {
    let bundles = ["even", "odd!"].map(|mark| packed(&tar(&with_modules(mark))));
    let servers = [0, 1].map(|n: usize| Server::serving(bundles[n].clone()));
    let host = Host::new();
    host.pull(&bundles[0]).unwrap();
    let directory = host.temp.path().join("kernels/test-6.1");
    // It is never absent.
    let inode = || fs::metadata(&directory).unwrap().ino();
    let mut outcomes = HashSet::new();
    for (round, looks) in [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, usize::MAX].into_iter().enumerate() {
        let (before, old) = (which(&host), inode());
        let n = usize::from(before == "even");
        offer(&host, &source(&servers[n].url("/b.tar.zst"), &bundles[n]));
        let mut child = Child::start(&host, "pull", "bringing kernel", None).stopped("the last step");
        // The first never gets further; the others a little further each; the last past the exchange.
        if round > 0 {
            child.go();
            let mut looks = (0..looks).take_while(|_| inode() == old && !child.has_ended());
            while looks.next().is_some() {}
        }
        let exchanged = inode() != old;
        let status = child.kill();
        assert!(status.signal() == Some(9) || status.success(), "round {round}: {status}");
        let after = which(&host);
        assert!(after == before || after == ["even", "odd!"][n], "round {round}: {before} became {after}");
        assert!(after != before || !exchanged && !status.success(), "round {round}: it was the new one already");
        assert_eq!(swept(&host), ["test-6.1"], "round {round}");
        outcomes.insert(after != before);
        match round {
            0 => assert!(after == before && status.signal() == Some(9), "{before} became {after}"),
            10 => assert_ne!(after, before),
            _ => {}
        }
    }
    assert_eq!(outcomes.len(), 2, "both were seen");
}

/// Progress that hands on what begins.
struct PhaseSender(Mutex<mpsc::Sender<String>>);

impl Progress for PhaseSender {
    fn phase(&self, what: &str) {
        let _ = self.0.lock().unwrap().send(what.to_owned());
    }

    fn advance(&self, _: u64, _: Option<u64>) {}
}

#[test]
fn a_removal_waits_for_a_pull_and_then_takes_the_kernel_away() {
    let bundle = small("x");
    let answer = ok(&bundle);
    let (asked, asking) = mpsc::channel();
    let (allow, allowed) = mpsc::channel();
    let allowed = Mutex::new(allowed);
    let server = Server::start(move |mut request| {
        asked.send(()).unwrap();
        allowed.lock().unwrap().recv().unwrap();
        request.stream.write_all(&answer)
    });
    let host = Host::new();
    let catalog = catalog(&source(&server.url("/b"), &bundle));
    let (told, telling) = mpsc::channel();
    let told = PhaseSender(Mutex::new(told));
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| host.store.pull(&name(), &catalog, true, &host.job()).unwrap());
        asking.recv_timeout(LONG).expect("the pull is in the midst of its download");
        let removal = scope.spawn(|| {
            let job = Job { progress: &told, cancel: &host.cancel };
            host.store.remove(&name(), &job)
        });
        let waits = telling.recv_timeout(LONG).expect("the removal says that it waits");
        assert_eq!(waits, "waiting for somebody else's work on kernel test-6.1");
        assert!(!removal.is_finished() && !pull.is_finished());
        allow.send(()).unwrap();
        pull.join().unwrap();
        removal.join().unwrap().expect("what was pulled meanwhile is there to be removed");
    });
    assert!(host.stored().is_empty(), "{:?}", host.stored());
}

#[test]
fn many_pulls_and_removals_at_once_end_with_a_whole_kernel_or_none() {
    let bundle = small("x");
    let server = Server::serving(bundle.clone());
    let host = Host::new();
    let catalog = catalog(&source(&server.url("/b"), &bundle));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| host.store.pull(&name(), &catalog, true, &host.job()).unwrap());
            scope.spawn(|| drop(host.store.remove(&name(), &host.job())));
        }
    });
    let there: &[&str] = if host.store.get(&name()).is_ok() { &["test-6.1"] } else { &[] };
    assert_eq!(host.stored(), there);
    if !there.is_empty() {
        assert_eq!(which(&host), "x");
    }
}

#[test]
fn locks_of_the_dead_are_swept_and_those_of_the_living_are_not() {
    let bundle = small("x");
    let server = Server::serving(bundle.clone());
    let host = Host::new();
    host.pull(&bundle).unwrap();
    offer(&host, &source(&server.url("/b"), &bundle));
    let child = Child::start(&host, "pull", "downloading", None).stopped("with the lock");
    let left = swept(&host);
    assert!(left.contains(&".lock-test-6.1".to_owned()) && left.len() == 3, "lock, unfinished work, kernel: {left:?}");
    child.kill();
    assert_eq!(host.stored().len(), 3, "{:?}", host.stored());
    assert_eq!(swept(&host), ["test-6.1"]);
}
