//! Kernels whose files lie in different places.

use super::fixture::{Host, RELEASE, module, vmlinux};
use banger_artifacts::kernel::{Description, KernelError, LooseFiles, Provenance};
use std::{fs, path::PathBuf};

fn host_with_files(modules: &str) -> (Host, LooseFiles) {
    let host = Host::new();
    let kernel = host.write("boot/vmlinuz", &vmlinux(true));
    let initrd = host.write("elsewhere/initrd", b"an initrd");
    host.write(&format!("{modules}/kernel/virtio_ring.ko"), &module("virtio_ring", ""));
    host.write(&format!("{modules}/modules.dep"), b"kernel/virtio_ring.ko:\n");
    let files = LooseFiles { kernel, initrd: Some(initrd), modules: None };
    (host, files)
}

fn import(host: &Host, files: &LooseFiles) -> Result<banger_artifacts::kernel::Kernel, KernelError> {
    host.store.import_files(&"mine".parse().unwrap(), files, &Description::default(), false, &host.job())
}

#[test]
fn modules_are_found_as_a_tree_below_a_release_or_below_lib() {
    for (place, named) in [
        ("tree".to_owned(), "tree"),
        (format!("trees/{RELEASE}"), "trees"),
        (format!("root/lib/modules/{RELEASE}"), "root"),
    ] {
        let (host, files) = host_with_files(&place);
        let kernel = import(&host, &LooseFiles { modules: Some(host.path(named)), ..files.clone() }).unwrap();
        assert_eq!(kernel.manifest.kernel_version, RELEASE, "{place}");
        assert!(kernel.modules().unwrap().join("kernel/virtio_ring.ko").is_file(), "{place}");
        assert_eq!(fs::read(kernel.initrd().unwrap()).unwrap(), b"an initrd");
        let path = files.kernel.to_string_lossy().into_owned();
        assert_eq!(kernel.manifest.source, Provenance::File { path });
        kernel.verify(&host.job()).unwrap();
    }
}

#[test]
fn what_is_missing_is_named_and_leaves_nothing() {
    let (host, files) = host_with_files("tree");
    let missing = || Some(PathBuf::from("/nowhere/at-all"));
    for files in [
        LooseFiles { kernel: "/nowhere/at-all".into(), ..files.clone() },
        LooseFiles { initrd: missing(), ..files.clone() },
        LooseFiles { modules: missing(), ..files.clone() },
    ] {
        let error = import(&host, &files).unwrap_err();
        let text = super::bundle::chain(&error);
        assert!(text.starts_with("cannot import kernel mine from ") && text.contains("/nowhere/at-all"), "{text}");
        assert!(host.stored().is_empty());
    }
    import(&host, &files).unwrap();
    assert!(matches!(import(&host, &files), Err(KernelError::AlreadyExists { .. })));
}
