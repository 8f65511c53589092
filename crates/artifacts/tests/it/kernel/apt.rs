//! The real thing: the distribution's kernel through this host's apt.

use super::fixture::{Host, quiet};
use banger_artifacts::{
    job::Cancel,
    kernel::{Catalog, KernelError, Outcome, Provenance},
};
use std::thread;

#[test]
fn the_distributions_kernel_is_pulled_once_and_is_whole() {
    if !banger_testkit::require("apt") {
        return;
    }
    let host = Host::new();
    let name = "debian-6.1".parse().unwrap();
    let catalog = Catalog::builtin();
    // Two at once: one fetches, the other waits for it and finds it there.
    let pulls: Vec<_> = thread::scope(|scope| {
        let pull = || scope.spawn(|| host.store.pull(&name, &catalog, false, &host.job()).unwrap());
        let threads = [pull(), pull()];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let outcomes: Vec<_> = pulls.iter().map(|(_, outcome)| *outcome).collect();
    assert!(
        [[Outcome::Pulled, Outcome::AlreadyThere], [Outcome::AlreadyThere, Outcome::Pulled]]
            .contains(outcomes.as_slice().try_into().unwrap()),
        "{outcomes:?}"
    );
    let (kernel, _) = &pulls[0];
    let manifest = &kernel.manifest;
    assert_eq!((manifest.distro.as_str(), manifest.arch.as_str()), ("debian", "x86_64"));
    assert!(manifest.kernel_version.starts_with("6.1.0-"), "{manifest:?}");
    assert!(manifest.boots.pvh && manifest.boots.acpi && !manifest.boots.mmio_cmdline, "{manifest:?}");
    assert_eq!(manifest.boots.hz, Some(250), "Debian's configuration says so");
    assert!(manifest.missing_drivers.is_empty(), "{manifest:?}");
    let Provenance::Apt { package, version, .. } = &manifest.source else { panic!("{manifest:?}") };
    assert_eq!(*package, format!("linux-image-{}", manifest.kernel_version));
    assert!(version.starts_with("6.1."), "{version}");
    let order: Vec<_> = manifest.boot_modules.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
    let position = |module: &str| order.iter().position(|name| *name == module).expect("in the boot order");
    assert!(position("virtio_ring.ko") < position("virtio.ko"), "{order:?}");
    assert!(position("virtio.ko") < position("virtio_mmio.ko"), "{order:?}");
    assert!(position("virtio_mmio.ko") < position("virtio_blk.ko"), "{order:?}");
    assert!(order.contains(&"virtio_console.ko") && order.contains(&"overlay.ko"), "{order:?}");
    kernel.verify(&host.job()).unwrap();
    assert!(kernel.modules_image().unwrap().metadata().unwrap().len() > 10 << 20);

    let (again, outcome) = host.store.pull(&name, &catalog, false, &host.job()).unwrap();
    assert_eq!((&again, outcome), (kernel, Outcome::AlreadyThere));
    assert_eq!(host.stored(), ["debian-6.1"]);

    // A damaged one is fetched anew, without being asked to.
    std::fs::write(kernel.vmlinux(), "not a kernel").unwrap();
    assert!(matches!(host.store.get(&name), Err(KernelError::Corrupt { .. })));
    let (mended, outcome) = host.store.pull(&name, &catalog, false, &host.job()).unwrap();
    assert_eq!(outcome, Outcome::Pulled);
    assert_eq!(mended.manifest.tree_sha256, manifest.tree_sha256, "the same package gives the same files");
    let downloads = host.temp.path().join("cache/downloads");
    assert_eq!(std::fs::read_dir(downloads).unwrap().count(), 0, "the package is not kept");
}

#[test]
fn another_kernel_than_the_catalogs_is_refused() {
    if !banger_testkit::require("apt") {
        return;
    }
    let host = Host::new();
    let catalog = |package: &str, kernel: &str| {
        let json = format!(
            r#"{{"version":1,"entries":[{{"name":"debian-{kernel}","distro":"debian","arch":"x86_64",
            "kernel_version":"{kernel}","sources":[{{"type":"carrier-pigeon","ring":7}},
            {{"type":"apt","package":"{package}","kernel":"{kernel}"}}]}}]}}"#
        );
        Catalog::parse(json.as_bytes()).unwrap()
    };
    let cancel = Cancel::default();
    let pull = |package: &str, kernel: &str| {
        let name = format!("debian-{kernel}").parse().unwrap();
        let error = host.store.pull(&name, &catalog(package, kernel), false, &quiet(&cancel)).unwrap_err();
        let KernelError::Pull { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(error.to_string(), format!("cannot pull kernel debian-{kernel}"));
        source.to_string()
    };
    let error = pull("linux-image-cloud-amd64", "5.99");
    assert!(error.contains("is version 6.1.") && error.ends_with("and not 5.99"), "{error}");
    let error = pull("linux-image-of-no-distribution", "6.1");
    assert_eq!(error, "none of this host's apt sources has the package linux-image-of-no-distribution");
    let error = pull("bash", "6.1");
    assert_eq!(error, "bash leads to 0 kernel packages (), not to one");
    assert!(host.stored().is_empty());
}
