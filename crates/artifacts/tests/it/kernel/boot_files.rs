//! What a VMM is given: the shared initramfs and each VM's own.

use super::fixture::{Host, RELEASE, module, packed_in_rust, vmlinux};
use banger_artifacts::{
    initramfs::{InitramfsError, append_config},
    kernel::{Codec, Description, Kernel, KernelError},
};
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, thread};

/// A kernel with an initrd of its own and two boot modules, one of them compressed.
fn kernel(host: &Host) -> Kernel {
    host.write("k/vmlinux", &vmlinux(true));
    // Not a multiple of four long, and not an archive: the kernel's own business.
    host.write("k/initrd.img", b"own initrd");
    let tree = format!("k/lib/modules/{RELEASE}");
    host.write(&format!("{tree}/virtio.ko"), &module("virtio", ""));
    host.write(&format!("{tree}/virtio_blk.ko.xz"), &packed_in_rust(Codec::Xz, &module("virtio_blk", "virtio")));
    host.write(&format!("{tree}/modules.dep"), b"virtio.ko:\nvirtio_blk.ko.xz: virtio.ko\n");
    let from = host.path("k");
    host.store.import(&"test-6.1".parse().unwrap(), &from, &Description::default(), false, &host.job()).unwrap()
}

/// Mode and content by name, as the kernel would unpack one archive after the other.
fn unpacked(mut archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    while !archive.is_empty() {
        assert_eq!(&archive[..6], b"070701");
        let field =
            |n: usize| u32::from_str_radix(std::str::from_utf8(&archive[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap();
        let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
        let start = (110 + name).next_multiple_of(4);
        let name = String::from_utf8(archive[110..110 + name - 1].to_vec()).unwrap();
        files.insert(name, (mode, archive[start..start + size].to_vec()));
        archive = &archive[(start + size).next_multiple_of(4)..];
    }
    files
}

#[test]
fn the_base_holds_the_kernels_initrd_the_agent_and_unpacked_modules_in_order() {
    let host = Host::new();
    let kernel = kernel(&host);
    let agent = host.write("agent", b"\x7fELF agent");
    let files = host.store.boot_files(&kernel, &agent, &host.job()).unwrap();
    assert_eq!((files.kernel_version.as_str(), &files.vmlinux), (RELEASE, &kernel.vmlinux()));
    assert_eq!(files.modules_image, kernel.modules_image());
    let base = fs::read(&files.initramfs).unwrap();
    assert!(base.starts_with(b"own initrd\0\x00070701"), "padded to four bytes");
    let content = unpacked(&base[12..]);
    assert_eq!(
        content.keys().collect::<Vec<_>>(),
        [
            "TRAILER!!!",
            "banger",
            "banger/modules",
            "banger/modules/00-virtio_blk",
            "banger/modules/00-virtio_blk/000-virtio.ko",
            "banger/modules/00-virtio_blk/001-virtio_blk.ko",
            "dev",
            "dev/console",
            "init"
        ]
    );
    assert_eq!(content["init"], (0o100_755, b"\x7fELF agent".to_vec()));
    assert_eq!(content["dev/console"].0, 0o020_600);
    assert_eq!(content["banger/modules/00-virtio_blk/001-virtio_blk.ko"].1, module("virtio_blk", "virtio"));
}

#[test]
fn the_base_is_made_once_per_agent_also_by_two_at_once() {
    let host = Host::new();
    let kernel = kernel(&host);
    let agent = host.write("agent", b"\x7fELF one");
    let make = || host.store.boot_files(&kernel, &agent, &host.job()).unwrap().initramfs;
    let paths: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0]));
    let packed = || host.phases.0.lock().unwrap().iter().filter(|phase| *phase == "packing the initramfs").count();
    assert_eq!(packed(), 1);
    // Another agent under the same path and of the same length is another agent.
    fs::write(host.path("new"), b"\x7fELF two").unwrap();
    fs::rename(host.path("new"), &agent).unwrap();
    let other = make();
    assert_ne!(other, paths[0]);
    assert_eq!(packed(), 2);
    assert_eq!(make(), other);
    assert_eq!(packed(), 2);
    // A cache somebody emptied is filled again.
    fs::remove_file(&other).unwrap();
    assert_eq!(fs::read(make()).unwrap()[..10], *b"own initrd");
}

#[test]
fn bad_agents_and_broken_modules_are_named() {
    let host = Host::new();
    let kernel = kernel(&host);
    let refused = |agent: &Path| match host.store.boot_files(&kernel, agent, &host.job()) {
        Err(KernelError::Initramfs(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&host.path("missing")), InitramfsError::Io { .. }));
    assert!(matches!(refused(&host.write("script", b"#!/bin/sh\n")), InitramfsError::Agent(_)));
    let agent = host.write("agent", b"\x7fELF agent");
    fs::write(kernel.modules().unwrap().join("virtio.ko"), "neither ELF nor compressed").unwrap();
    assert!(matches!(refused(&agent), InitramfsError::Module { .. }));
    let left = fs::read_dir(host.temp.path().join("cache/initramfs")).unwrap().count();
    assert_eq!(left, 0, "nothing half-made stays");
}

#[test]
fn archives_nobody_has_used_for_long_go_when_another_is_made() {
    let host = Host::new();
    let kernel = kernel(&host);
    let boot = |name: &str| {
        let agent = host.write(name, format!("\x7fELF {name}").as_bytes());
        host.store.boot_files(&kernel, &agent, &host.job()).unwrap().initramfs
    };
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 24 * 3600);
    let age = |path: &Path| fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    let (forgotten, used) = (boot("forgotten"), boot("used"));
    age(&forgotten);
    age(&used);
    let other = forgotten.with_file_name("not-an-archive");
    fs::write(&other, "").unwrap();
    age(&other);
    assert_eq!(boot("used"), used, "a use says so in the file");
    let new = boot("new");
    assert_eq!([&forgotten, &used, &other, &new].map(|path| path.exists()), [false, true, true, true]);
}

#[test]
fn a_vms_configuration_follows_the_base_and_is_private() {
    let host = Host::new();
    let base = host.write("base", b"12345");
    let out = host.write("initramfs", b"an old one, readable by all");
    append_config(&base, b"{\"version\":1}", &out).unwrap();
    let content = fs::read(&out).unwrap();
    assert_eq!(content[..8], *b"12345\0\0\0");
    let files = unpacked(&content[8..]);
    assert_eq!(files["banger/config.json"], (0o100_600, b"{\"version\":1}".to_vec()));
    assert_eq!(files["banger"].0, 0o040_755);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let too_much = vec![b' '; banger_proto::agent::boot::MAX_CONFIG + 1];
    assert!(matches!(append_config(&base, &too_much, &out), Err(InitramfsError::TooLarge { .. })));
    assert_eq!(fs::read(&out).unwrap(), content, "a refused one changes nothing");
    assert_eq!(fs::read_dir(host.path("")).unwrap().count(), 2);
}
