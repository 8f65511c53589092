//! Kernels whose files lie in different places.

use super::fixture::{Host, RELEASE, module, vmlinux};
use banger_artifacts::kernel::{Description, KernelError, Parts, Provenance};
use std::{fs, path::PathBuf};

fn host_with_parts(modules: &str) -> (Host, Parts) {
    let host = Host::new();
    let kernel = host.write("boot/vmlinuz", &vmlinux(true));
    let initrd = host.write("elsewhere/initrd", b"an initrd");
    host.write(&format!("{modules}/kernel/virtio_ring.ko"), &module("virtio_ring", ""));
    host.write(&format!("{modules}/modules.dep"), b"kernel/virtio_ring.ko:\n");
    let parts = Parts { kernel, initrd: Some(initrd), modules: None };
    (host, parts)
}

fn import(host: &Host, parts: &Parts) -> Result<banger_artifacts::kernel::Kernel, KernelError> {
    host.store.import_parts(&"mine".parse().unwrap(), parts, &Description::default(), false, &host.job())
}

#[test]
fn modules_are_found_as_a_tree_below_a_release_or_below_lib() {
    for (place, named) in [
        ("tree".to_owned(), "tree"),
        (format!("trees/{RELEASE}"), "trees"),
        (format!("root/lib/modules/{RELEASE}"), "root"),
    ] {
        let (host, parts) = host_with_parts(&place);
        let kernel = import(&host, &Parts { modules: Some(host.path(named)), ..parts.clone() }).unwrap();
        assert_eq!(kernel.manifest.kernel_version, RELEASE, "{place}");
        assert!(kernel.modules().unwrap().join("kernel/virtio_ring.ko").is_file(), "{place}");
        assert_eq!(fs::read(kernel.initrd().unwrap()).unwrap(), b"an initrd");
        let path = parts.kernel.to_string_lossy().into_owned();
        assert_eq!(kernel.manifest.source, Provenance::File { path });
        kernel.verify(&host.job()).unwrap();
    }
}

#[test]
fn what_is_missing_is_named_and_leaves_nothing() {
    let (host, parts) = host_with_parts("tree");
    let missing = || Some(PathBuf::from("/nowhere/at-all"));
    for parts in [
        Parts { kernel: "/nowhere/at-all".into(), ..parts.clone() },
        Parts { initrd: missing(), ..parts.clone() },
        Parts { modules: missing(), ..parts.clone() },
    ] {
        let error = import(&host, &parts).unwrap_err();
        let text = super::bundle::chain(&error);
        assert!(text.starts_with("cannot import kernel mine from ") && text.contains("/nowhere/at-all"), "{text}");
        assert!(host.stored().is_empty());
    }
    import(&host, &parts).unwrap();
    assert!(matches!(import(&host, &parts), Err(KernelError::AlreadyExists { .. })));
}
