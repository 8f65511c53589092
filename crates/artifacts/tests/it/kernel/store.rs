//! The store: what is there, what is damaged, who may change it.

use super::fixture::{Host, module, quiet, vmlinux};
use banger_artifacts::{
    job::Cancel,
    kernel::{Catalog, Corruption, Description, Kernel, KernelError},
};
use banger_proto::name::KernelName;
use std::{fs, thread};

fn name() -> KernelName {
    "test-6.1".parse().unwrap()
}

fn imported(host: &Host) -> Kernel {
    let from = host.write("kernel", &vmlinux(true));
    host.store.import(&name(), &from, &Description::default(), false, &host.job()).unwrap()
}

#[test]
fn a_kernel_is_there_until_it_is_removed() {
    let host = Host::new();
    assert!(matches!(host.store.get(&name()), Err(KernelError::NotFound { .. })));
    let kernel = imported(&host);
    assert_eq!(host.store.get(&name()).unwrap(), kernel);
    assert_eq!(host.store.list().unwrap().kernels, std::slice::from_ref(&kernel));
    assert!(kernel.disk_bytes().unwrap() >= fs::metadata(kernel.vmlinux()).unwrap().len());
    let from = host.path("kernel");
    let again = host.store.import(&name(), &from, &Description::default(), false, &host.job());
    assert!(matches!(again, Err(KernelError::AlreadyExists { .. })));
    host.store.import(&name(), &from, &Description::default(), true, &host.job()).unwrap();
    host.store.remove(&name(), &host.job()).unwrap();
    assert!(matches!(host.store.remove(&name(), &host.job()), Err(KernelError::NotFound { .. })));
    assert!(host.stored().is_empty());
}

/// What the error says, and what brings it about.
type Damage = (&'static str, fn(&Kernel));

#[test]
fn damage_is_found_and_named_and_does_not_hide_the_others() {
    let damage: [Damage; 6] = [
        ("cannot read manifest.json", |kernel| fs::remove_file(kernel.directory.join("manifest.json")).unwrap()),
        ("manifest.json is malformed", |kernel| fs::write(kernel.directory.join("manifest.json"), "{").unwrap()),
        ("cannot read its vmlinux", |kernel| fs::remove_file(kernel.vmlinux()).unwrap()),
        ("cannot read its vmlinux", |kernel| {
            fs::remove_file(kernel.vmlinux()).unwrap();
            std::os::unix::fs::symlink("/dev/zero", kernel.vmlinux()).unwrap();
        }),
        ("its vmlinux is not a kernel image", |kernel| fs::write(kernel.vmlinux(), "text").unwrap()),
        ("its vmlinux is not a kernel image", |kernel| {
            let file = fs::File::options().write(true).open(kernel.vmlinux()).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
    ];
    for (expected, damage) in damage {
        let host = Host::new();
        let kernel = imported(&host);
        let good = "good-6.1".parse().unwrap();
        host.store.import(&good, &host.path("kernel"), &Description::default(), false, &host.job()).unwrap();
        damage(&kernel);
        let error = host.store.get(&name()).unwrap_err();
        assert_eq!(error.to_string(), "kernel test-6.1 is damaged");
        let KernelError::Corrupt { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.to_string(), expected);
        let listing = host.store.list().unwrap();
        assert_eq!(listing.kernels.len(), 1);
        assert_eq!(listing.damaged.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["test-6.1"]);
        host.store.remove(&name(), &host.job()).unwrap();
    }
}

#[test]
fn one_changed_byte_is_found_by_verify() {
    let host = Host::new();
    let from = host.write("k/vmlinux", &vmlinux(true));
    host.write("k/initrd.img", b"initrd");
    host.write("k/modules/ext4.ko", &module("ext4", ""));
    host.write("k/modules/modules.dep", b"ext4.ko:\n");
    let directory = from.parent().unwrap();
    let kernel = host.store.import(&name(), directory, &Description::default(), false, &host.job()).unwrap();
    kernel.verify(&host.job()).unwrap();
    let found = |expected: &str| match kernel.verify(&host.job()).unwrap_err() {
        KernelError::Corrupt { source: Corruption::Hash { what, .. }, .. } => assert_eq!(what, expected),
        other => panic!("{other:?}"),
    };
    let mut image = fs::read(kernel.modules_image().unwrap()).unwrap();
    let middle = image.len() / 2;
    image[middle] ^= 1;
    fs::write(kernel.modules_image().unwrap(), image).unwrap();
    host.store.get(&name()).unwrap();
    found("modules.ext4");
    fs::write(kernel.initrd().unwrap(), b"Initrd").unwrap();
    found("files");
    let mut content = fs::read(kernel.vmlinux()).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(kernel.vmlinux(), content).unwrap();
    host.store.get(&name()).unwrap();
    found("vmlinux");
}

#[test]
fn an_image_of_modules_beside_a_kernel_without_any_is_found_by_verify() {
    let host = Host::new();
    let kernel = imported(&host);
    kernel.verify(&host.job()).unwrap();
    fs::write(kernel.directory.join("modules.ext4"), "somebody else's").unwrap();
    assert_eq!(host.store.get(&name()).unwrap().modules_image(), None);
    match kernel.verify(&host.job()).unwrap_err() {
        KernelError::Corrupt { source: Corruption::Added("modules.ext4"), .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pull_says_what_is_not_offered_and_what_cannot_be_used() {
    let host = Host::new();
    let pull = |json: &str| {
        let catalog = Catalog::parse(json.as_bytes()).unwrap();
        host.store.pull(&name(), &catalog, false, &host.job()).unwrap_err()
    };
    let error = pull(r#"{"version":1,"entries":[]}"#);
    assert_eq!(error.to_string(), "no catalog has a kernel test-6.1 for x86_64");
    let error = pull(
        r#"{"version":1,"entries":[{"name":"test-6.1","distro":"x","arch":"x86_64","kernel_version":"6.1",
           "sources":[{"type":"carrier-pigeon","ring":7}]}]}"#,
    );
    let KernelError::Pull { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "this version of banger has no use for a source of type \"carrier-pigeon\"");
    assert!(host.stored().is_empty());
}

#[test]
fn imports_of_one_name_take_turns_and_waiting_can_be_cancelled() {
    let host = Host::new();
    let from = host.write("kernel", &vmlinux(true));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| host.store.import(&name(), &from, &Description::default(), true, &host.job()).unwrap());
        }
    });
    assert_eq!(host.stored(), ["test-6.1"]);
    // Held by somebody else, as another process would.
    let shelf = banger_artifacts::publish::Shelf::open(host.temp.path().join("kernels")).unwrap();
    let _held = shelf.lock("test-6.1", &Cancel::default()).unwrap();
    let cancel = Cancel::default();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| host.store.remove(&name(), &quiet(&cancel)));
        cancel.cancel();
        assert!(waiting.join().unwrap().is_err());
    });
    host.store.get(&name()).unwrap();
}
