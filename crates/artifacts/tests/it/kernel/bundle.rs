//! Bundles that are as they should be, and what is made of them.

use super::{
    super::web::{Server, ok, redirect},
    fixture::{Host, Member, RELEASE, append, module, names, quiet, tar, vmlinux},
};
use banger_artifacts::{
    fetch::Client,
    job::Cancel,
    kernel::{Boots, Catalog, CatalogError, Kernel, KernelError, Outcome, Provenance},
};
use banger_proto::name::KernelName;
use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, sync::Mutex, thread, time::Duration};

pub(super) fn name() -> KernelName {
    "test-6.1".parse().unwrap()
}

pub(super) fn packed(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).unwrap()
}

/// The smallest bundle: a kernel that says `mark` somewhere.
pub(super) fn small(mark: &str) -> Vec<u8> {
    packed(&tar(&[Member::File("vmlinux", vmlinux(true)), Member::File("initrd.img", mark.as_bytes().to_vec())]))
}

/// A catalog with one entry, whose sources are JSON.
pub(super) fn catalog(sources: &str) -> Catalog {
    let json = format!(
        r#"{{"version":1,"entries":[{{"name":"test-6.1","distro":"tests","arch":"x86_64","kernel_version":"6.1",
            "sources":[{sources}]}}]}}"#
    );
    Catalog::parse(json.as_bytes()).unwrap()
}

pub(super) fn source(url: &str, bundle: &[u8]) -> String {
    let (sha256, size) = (super::super::sha256(bundle), bundle.len());
    format!(r#"{{"type":"bundle","url":"{url}","sha256":"{sha256}","size":{size}}}"#)
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

impl Host {
    /// Pulls `bundle` from a server that does as it should.
    pub(super) fn pull(&self, bundle: &[u8]) -> Result<Kernel, KernelError> {
        let server = Server::serving(bundle);
        let catalog = catalog(&source(&server.url("/b.tar.zst"), bundle));
        self.store.pull(&name(), &catalog, true, &self.job()).map(|(kernel, outcome)| {
            assert_eq!(outcome, Outcome::Pulled);
            kernel
        })
    }
}

#[test]
fn a_kernel_alone() {
    let host = Host::new();
    let bundle = packed(&tar(&[Member::Directory("./"), Member::File("./vmlinux", vmlinux(true))]));
    let server = Server::serving(bundle.clone());
    let url = server.url("/b.tar.zst");
    let (kernel, outcome) = host.store.pull(&name(), &catalog(&source(&url, &bundle)), false, &host.job()).unwrap();
    assert_eq!(outcome, Outcome::Pulled);
    let manifest = &kernel.manifest;
    assert_eq!((manifest.kernel_version.as_str(), manifest.distro.as_str()), (RELEASE, "tests"));
    assert_eq!(manifest.boots, Boots { pvh: true, acpi: true, mmio_cmdline: false, hz: None });
    assert_eq!(manifest.source, Provenance::Bundle { url: url.clone(), sha256: super::super::sha256(&bundle) });
    assert_eq!(manifest.source.to_string(), format!("bundle {url}"));
    assert!(fs::read(kernel.vmlinux()).unwrap() == vmlinux(true));
    assert_eq!(names(&kernel.directory), ["manifest.json", "vmlinux"]);
    assert_eq!(host.store.get(&name()).unwrap(), kernel);
    kernel.verify(&host.job()).unwrap();
    let again = host.store.pull(&name(), &catalog(&source(&url, &bundle)), false, &host.job()).unwrap();
    assert_eq!(again, (kernel, Outcome::AlreadyThere));
    assert_eq!((server.hits(), host.stored()), (1, vec!["test-6.1".to_owned()]));
    let phases = host.phases.0.lock().unwrap();
    assert_eq!(phases[0], format!("downloading {url}"));
}

#[test]
fn modules_links_and_modes() {
    let host = Host::new();
    let (ring, virtio) = (module("virtio_ring", ""), module("virtio", "virtio_ring"));
    let dep = b"kernel/virtio_ring.ko:\nkernel/virtio.ko: kernel/virtio_ring.ko\n\
                kernel/virtio_blk.ko: kernel/virtio.ko kernel/virtio_ring.ko\n";
    let bundle = packed(&tar(&[
        // The order is nobody's business, and neither are the bundle's own claims about itself.
        Member::Link("modules/first", "kernel/again/virtio.ko"),
        Member::Link("modules/build", "/usr/src/linux"),
        Member::Directory("modules/kernel/"),
        Member::Mode("modules/kernel/virtio_ring.ko", 0o6777, ring.clone()),
        Member::File("modules/kernel/virtio.ko", virtio),
        Member::HardLink("modules/kernel/virtio_blk.ko", "modules/kernel/virtio_ring.ko"),
        Member::Link("modules/kernel/again", "."),
        Member::File("modules/modules.dep", dep.to_vec()),
        Member::File("manifest.json", br#"{"name":"debian-6.1","sha256":"0"}"#.to_vec()),
        Member::File("modules.ext4", b"not a file system".to_vec()),
        Member::Mode("initrd.img", 0o4755, b"initrd".to_vec()),
        Member::Mode("vmlinux", 0o7777, vmlinux(false)),
    ]));
    let kernel = host.pull(&bundle).unwrap();
    assert_eq!(names(&kernel.directory), ["initrd.img", "manifest.json", "modules", "modules.ext4", "vmlinux"]);
    let modules = kernel.modules().unwrap();
    assert_eq!(names(&modules), ["first", "kernel", "modules.dep"]);
    assert_eq!(fs::read_link(modules.join("kernel/again")).unwrap(), Path::new("."));
    assert!(fs::read(modules.join("kernel/virtio_blk.ko")).unwrap() == ring);
    for file in ["vmlinux", "initrd.img", "modules/kernel/virtio_ring.ko"] {
        let mode = fs::metadata(kernel.directory.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7133, 0, "{file}: {mode:o}");
    }
    let manifest = &kernel.manifest;
    assert_eq!(manifest.name, name());
    assert_eq!(manifest.boot_modules, ["kernel/virtio_ring.ko", "kernel/virtio.ko", "kernel/virtio_blk.ko"]);
    assert!(!manifest.boots.pvh && manifest.missing_drivers.contains(&"virtio_mmio".to_owned()));
    assert!(fs::metadata(kernel.modules_image().unwrap()).unwrap().len() > 4096);
    kernel.verify(&host.job()).unwrap();
}

#[test]
fn modules_without_indexes_get_them() {
    if !banger_testkit::require("depmod") {
        return;
    }
    let host = Host::new();
    let bundle = packed(&tar(&[
        Member::File("vmlinux", vmlinux(true)),
        Member::File("modules/kernel/virtio_ring.ko", module("virtio_ring", "")),
        Member::File("modules/kernel/virtio.ko", module("virtio", "virtio_ring")),
        Member::File("modules/kernel/virtio_blk.ko", module("virtio_blk", "virtio,virtio_ring")),
        Member::File("modules/modules.order", Vec::new()),
        Member::File("modules/modules.builtin", Vec::new()),
    ]));
    let kernel = host.pull(&bundle).unwrap();
    let order = ["kernel/virtio_ring.ko", "kernel/virtio.ko", "kernel/virtio_blk.ko"];
    assert_eq!(kernel.manifest.boot_modules, order);
    assert!(kernel.modules().unwrap().join("modules.dep").is_file());
    kernel.verify(&host.job()).unwrap();
}

#[test]
fn long_names_padding_and_several_frames_are_fine() {
    let host = Host::new();
    let long = format!("modules/{}/{}", "d".repeat(120), "f".repeat(200));
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, &Member::File("vmlinux", vmlinux(true)));
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    archive.append_data(&mut header, &long, &b"x"[..]).unwrap();
    append(&mut archive, &Member::File("modules/modules.dep", Vec::new()));
    let mut archive = archive.into_inner().unwrap();
    archive.resize(archive.len().next_multiple_of(10 << 10), 0);
    let (first, second) = archive.split_at(100_000);
    let bundle = [packed(first), packed(second)].concat();
    let kernel = host.pull(&bundle).unwrap();
    assert!(kernel.directory.join(long).is_file());
}

#[test]
fn of_two_pulls_one_downloads() {
    let bundle = small("one");
    let answer = ok(&bundle);
    // The first answer waits until the second pull is there, which then waits for the lock.
    let (go, gate) = std::sync::mpsc::channel();
    let gate = Mutex::new(gate);
    let server = Server::start(move |mut request| {
        let _ = gate.lock().unwrap().recv_timeout(Duration::from_secs(60));
        request.stream.write_all(&answer)
    });
    let host = Host::new();
    let catalog = catalog(&source(&server.url("/b"), &bundle));
    let pull = || host.store.pull(&name(), &catalog, false, &host.job()).unwrap();
    let waits = || host.phases.0.lock().unwrap().iter().any(|phase| phase.starts_with("waiting for somebody else's"));
    let outcomes = thread::scope(|scope| {
        let threads = [scope.spawn(pull), scope.spawn(pull)];
        banger_testkit::wait_until(Duration::from_secs(60), "the second pull to wait", || {
            waits().then_some(()).ok_or_else(|| format!("{:?}", host.phases.0.lock().unwrap()))
        });
        go.send(()).unwrap();
        threads.map(|thread| thread.join().unwrap().1)
    });
    assert!(outcomes.contains(&Outcome::Pulled) && outcomes.contains(&Outcome::AlreadyThere), "{outcomes:?}");
    assert_eq!((server.hits(), host.stored()), (1, vec!["test-6.1".to_owned()]));
}

#[test]
fn sources_are_tried_in_order_and_all_of_them_are_heard() {
    let bundle = small("x");
    let good = Server::serving(bundle.clone());
    let gone = Server::raw("HTTP/1.1 410 Gone\r\nContent-Length: 5\r\n\r\nsorry");
    let changed = Server::raw(ok(&small("y")));
    let pigeon = r#"{"type":"carrier-pigeon"}"#;
    let all = |servers: &[&Server]| {
        let sources: Vec<_> = servers.iter().map(|server| source(&server.url("/b"), &bundle)).collect();
        catalog(&format!("{pigeon},{}", sources.join(",")))
    };
    let host = Host::new();
    let (kernel, _) = host.store.pull(&name(), &all(&[&gone, &good, &changed]), false, &host.job()).unwrap();
    assert_eq!((gone.hits(), good.hits(), changed.hits()), (1, 1, 0));
    let told = std::mem::take(&mut *host.phases.0.lock().unwrap());
    let told: Vec<_> = told.iter().filter(|line| line.starts_with("notice: ")).collect();
    assert!(told.len() == 1 && told[0].contains("410 Gone"), "{told:?}");
    kernel.verify(&host.job()).unwrap();

    let host = Host::new();
    let error = host.store.pull(&name(), &all(&[&gone, &changed]), false, &host.job()).unwrap_err();
    let text = chain(&error);
    let first = text.find("410 Gone: \"sorry\"").unwrap_or_else(|| panic!("{text}"));
    let second = text.find("and the catalog says").unwrap_or_else(|| panic!("{text}"));
    assert!(text.starts_with("cannot pull kernel test-6.1: cannot download http://") && first < second, "{text}");
    assert!(!text.contains("pigeon"), "{text}");
    assert!(host.stored().is_empty());
}

#[test]
fn a_cancelled_pull_leaves_nothing() {
    let bundle = small("x");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bundle.len());
    let half = bundle[..bundle.len() / 2].to_vec();
    let (sent, arrival) = std::sync::mpsc::channel();
    let server = Server::start(move |mut request| {
        request.stream.write_all(head.as_bytes())?;
        request.stream.write_all(&half)?;
        sent.send(()).unwrap();
        request.stall()
    });
    let (host, cancel) = (Host::new(), Cancel::default());
    let catalog = catalog(&source(&server.url("/b"), &bundle));
    thread::scope(|scope| {
        let pull = scope.spawn(|| host.store.pull(&name(), &catalog, false, &quiet(&cancel)));
        arrival.recv_timeout(Duration::from_secs(60)).unwrap();
        cancel.cancel();
        let error = pull.join().unwrap().unwrap_err();
        assert!(matches!(error, KernelError::Cancelled(_)), "{error:?}");
    });
    assert!(host.stored().is_empty());
}

#[test]
fn further_catalogs_add_to_and_replace_the_built_in_one() {
    let host = Host::new();
    let bundle = small("x");
    let server = Server::serving(bundle.clone());
    let entry = |name: &str, url: &str| {
        let source = source(url, &bundle);
        format!(r#"{{"name":"{name}","distro":"mine","arch":"x86_64","kernel_version":"6.1","sources":[{source}]}}"#)
    };
    let json = format!(
        r#"{{"version":1,"entries":[{},{}]}}"#,
        entry("test-6.1", &server.url("/a")),
        entry("debian-6.1", &server.url("/b"))
    );
    let path = host.write("catalog.json", json.as_bytes());
    let web = Server::serving(json.clone());
    let address = web.url("/catalog.json").parse().unwrap();
    let downloaded = Catalog::download(&address, &Client::default(), &host.job()).unwrap();
    assert_eq!(downloaded, Catalog::read(&path).unwrap());
    let mut catalog = Catalog::builtin();
    let before = catalog.entries().len();
    catalog.extend(downloaded);
    assert_eq!(catalog.entries().len(), before + 1);
    let debian = "debian-6.1".parse().unwrap();
    assert_eq!(catalog.find(&debian, "x86_64").unwrap().distro, "mine");
    host.store.pull(&name(), &catalog, false, &host.job()).unwrap();

    let large = host.write("large.json", &vec![b' '; (1 << 20) + 1]);
    assert!(matches!(Catalog::read(&large), Err(CatalogError::TooLarge)));
    assert!(matches!(Catalog::read(&host.path("missing")), Err(CatalogError::Io { .. })));
    let endless = Server::serving(vec![b' '; (1 << 20) + 1]);
    let address = endless.url("/").parse().unwrap();
    let error = Catalog::download(&address, &Client::default(), &host.job()).unwrap_err();
    assert!(chain(&error).ends_with("there are more than 1048576 bytes"), "{}", chain(&error));
    let elsewhere = Server::raw(redirect("http://example.org/catalog.json"));
    let address = elsewhere.url("/").parse().unwrap();
    assert!(matches!(Catalog::download(&address, &Client::default(), &host.job()), Err(CatalogError::Fetch { .. })));
}
