//! Importing: from a directory, a package, a file; and from things that should not be imported.

use super::fixture::{Host, Member, RELEASE, bzimage, deb, module, names, packed_in_rust, vmlinux};
use banger_artifacts::kernel::{Boots, Codec, Description, Kernel, KernelError, Provenance, Unusable};
use std::{fs, path::Path};

impl Host {
    fn import(&self, from: &Path) -> Result<Kernel, KernelError> {
        self.store.import(&"test-6.1".parse().unwrap(), from, &Description::default(), false, &self.job())
    }

    /// What was wrong, and that nothing is left of it.
    fn refused(&self, from: &Path) -> String {
        let error = self.import(from).unwrap_err();
        assert_eq!(self.stored(), [""; 0], "{error:?}");
        let KernelError::Import { source, .. } = error else { panic!("{error:?}") };
        let mut text = source.to_string();
        let mut next = std::error::Error::source(&*source);
        while let Some(error) = next {
            text = format!("{text}: {error}");
            next = error.source();
        }
        text
    }
}

fn packed_kernel() -> Vec<u8> {
    let elf = vmlinux(true);
    bzimage(Codec::Zstd, &packed_in_rust(Codec::Zstd, &elf), elf.len())
}

/// Everything a guest needs, as modules in different dress; ext4 is built in.
fn modules() -> Vec<(String, Vec<u8>)> {
    let ring = ("virtio_ring.ko", module("virtio_ring", ""));
    let virtio = ("virtio.ko.xz", packed_in_rust(Codec::Xz, &module("virtio", "virtio_ring")));
    let mmio = ("virtio_mmio.ko.zst", packed_in_rust(Codec::Zstd, &module("virtio_mmio", "virtio,virtio_ring")));
    let disk = ("virtio_blk.ko", module("virtio_blk", "virtio,virtio_ring"));
    let port = ("virtio-console.ko", module("virtio_console", "virtio,virtio_ring"));
    let mut files: Vec<_> = [ring, virtio, mmio, disk, port]
        .into_iter()
        .map(|(name, content)| (format!("kernel/drivers/{name}"), content))
        .collect();
    files.push(("kernel/fs/overlay.ko".into(), module("overlay", "")));
    files.push(("modules.builtin".into(), b"kernel/fs/ext4/ext4.ko\n".to_vec()));
    files.push(("modules.order".into(), Vec::new()));
    files
}

/// `modules.dep` as depmod would write it, for tests that do without depmod.
const DEP: &str = "kernel/drivers/virtio_ring.ko:\n\
    kernel/drivers/virtio.ko.xz: kernel/drivers/virtio_ring.ko\n\
    kernel/drivers/virtio_mmio.ko.zst: kernel/drivers/virtio.ko.xz kernel/drivers/virtio_ring.ko\n\
    kernel/drivers/virtio_blk.ko: kernel/drivers/virtio.ko.xz kernel/drivers/virtio_ring.ko\n\
    kernel/drivers/virtio-console.ko: kernel/drivers/virtio.ko.xz kernel/drivers/virtio_ring.ko\n\
    kernel/fs/overlay.ko:\n";

fn check(host: &Host, kernel: &Kernel) {
    let manifest = &kernel.manifest;
    assert_eq!(
        manifest.boot_modules,
        [
            "kernel/drivers/virtio_ring.ko",
            "kernel/drivers/virtio.ko.xz",
            "kernel/drivers/virtio_mmio.ko.zst",
            "kernel/fs/overlay.ko",
            "kernel/drivers/virtio_blk.ko",
            "kernel/drivers/virtio-console.ko"
        ]
    );
    assert_eq!(manifest.missing_drivers, ["virtio_net", "vmw_vsock_virtio_transport"]);
    assert_eq!((manifest.kernel_version.as_str(), manifest.arch.as_str()), (RELEASE, "x86_64"));
    assert!(fs::read(kernel.vmlinux()).unwrap() == vmlinux(true));
    kernel.verify(&host.job()).unwrap();
    let name = manifest.name.clone();
    assert_eq!(host.store.get(&name).unwrap(), *kernel);
    assert!(fs::metadata(kernel.modules_image().unwrap()).unwrap().len() > 0);
}

#[test]
fn a_directory_with_a_bzimage_an_initrd_and_modules() {
    let host = Host::new();
    host.write("k/vmlinuz-real", &packed_kernel());
    std::os::unix::fs::symlink("vmlinuz-real", host.path("k/vmlinuz")).unwrap();
    host.write("k/initrd.img", b"initrd");
    host.write("k/config", b"CONFIG_ACPI=y\nCONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n");
    for (name, content) in modules() {
        host.write(&format!("k/modules/{name}"), &content);
    }
    host.write("k/modules/modules.dep", DEP.as_bytes());
    std::os::unix::fs::symlink("/usr/src/linux", host.path("k/modules/build")).unwrap();
    std::os::unix::fs::symlink("kernel/fs", host.path("k/modules/fs")).unwrap();
    let kernel = host.import(&host.path("k")).unwrap();
    check(&host, &kernel);
    assert_eq!(kernel.manifest.boots, Boots { pvh: true, acpi: true, mmio_cmdline: true, hz: None });
    assert_eq!(names(&kernel.directory), ["initrd.img", "manifest.json", "modules", "modules.ext4", "vmlinux"]);
    assert_eq!(fs::read_link(kernel.modules().unwrap().join("fs")).unwrap(), Path::new("kernel/fs"));
    assert!(!kernel.modules().unwrap().join("build").is_symlink());
    assert!(matches!(kernel.manifest.source, Provenance::Directory { .. }));
}

#[test]
fn a_package_is_indexed_by_depmod() {
    if !banger_testkit::require("depmod") {
        return;
    }
    let host = Host::new();
    for prefix in ["lib/modules", "usr/lib/modules"] {
        let paths: Vec<_> =
            modules().into_iter().map(|(name, content)| (format!("./{prefix}/{RELEASE}/{name}"), content)).collect();
        let (vmlinuz, config) = (format!("./boot/vmlinuz-{RELEASE}"), format!("./boot/config-{RELEASE}"));
        let (build, link) = (format!("./{prefix}/{RELEASE}/build"), format!("./{prefix}/{RELEASE}/fs"));
        let (second, first) =
            (format!("./{prefix}/{RELEASE}/o.ko"), format!("./{prefix}/{RELEASE}/kernel/fs/overlay.ko"));
        let mut members =
            vec![Member::File(&vmlinuz, packed_kernel()), Member::File(&config, b"CONFIG_ACPI=y\n".to_vec())];
        members.extend(paths.iter().map(|(path, content)| Member::File(path, content.clone())));
        members.extend([Member::Link(&build, "/usr/src/x"), Member::Link(&link, "kernel/fs")]);
        members.push(Member::Fifo("./usr/share/doc/pipe"));
        members.push(Member::File("./usr/lib/modules-load.d/x.conf", b"x".to_vec()));
        if prefix == "lib/modules" {
            members.push(Member::HardLink(&second, &first));
        }
        let from = host.write("linux.deb", &deb("amd64", &members));
        let kernel = host.import(&from).unwrap();
        check(&host, &kernel);
        assert_eq!(kernel.manifest.boots, Boots { pvh: true, acpi: true, mmio_cmdline: false, hz: None });
        let Provenance::Deb { package, version, .. } = &kernel.manifest.source else { panic!() };
        assert_eq!((package.clone(), version.as_str()), (format!("linux-image-{RELEASE}"), "6.1.5-1"));
        host.store.remove(&kernel.manifest.name, &host.job()).unwrap();
    }
}

#[test]
fn a_kernel_file_alone() {
    let host = Host::new();
    for content in [vmlinux(true), packed_kernel()] {
        let from = host.write("kernel", &content);
        let kernel = host.import(&from).unwrap();
        let manifest = &kernel.manifest;
        assert_eq!((manifest.kernel_version.as_str(), manifest.distro.as_str()), (RELEASE, "unknown"));
        assert_eq!(manifest.boots, Boots { pvh: true, acpi: true, mmio_cmdline: false, hz: None });
        assert!(manifest.boot_modules.is_empty());
        assert_eq!(manifest.missing_drivers, ["vmw_vsock_virtio_transport"], "nothing in it says it has that");
        assert_eq!(names(&kernel.directory), ["manifest.json", "vmlinux"]);
        assert_eq!((kernel.initrd(), kernel.modules(), kernel.modules_image()), (None, None, None));
        fs::write(kernel.directory.join("modules.ext4"), "of a stranger").unwrap();
        assert_eq!(kernel.modules_image(), None, "no guest mounts what no manifest names");
        host.store.remove(&manifest.name, &host.job()).unwrap();
    }
}

#[test]
fn a_kernel_without_modules_says_which_drivers_it_lacks() {
    let host = Host::new();
    let missing = |from: &Path| {
        let kernel = host.import(from).unwrap();
        host.store.remove(&kernel.manifest.name, &host.job()).unwrap();
        kernel.manifest.missing_drivers
    };
    let named = [vmlinux(true), b"\0vmw_vsock_virtio_transport\0".to_vec()].concat();
    assert!(missing(&host.write("kernel", &named)).is_empty(), "the driver's own name is in it");
    let config = b"CONFIG_ACPI=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_EXT4_FS=y\nCONFIG_OVERLAY_FS=y\nCONFIG_VIRTIO_BLK=y\n\
                   CONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_CONSOLE=y\n# CONFIG_VIRTIO_VSOCKETS is not set\n";
    host.write("k/vmlinux", &named);
    host.write("k/config", config);
    let lacks = ["virtio_net", "vmw_vsock_virtio_transport"];
    assert_eq!(missing(&host.path("k")), lacks, "its configuration knows better");
}

#[test]
fn what_the_user_says_has_to_be_true() {
    let host = Host::new();
    let from = host.write("kernel", &vmlinux(true));
    let import = |description: Description| {
        host.store.import(&"test-6.1".parse().unwrap(), &from, &description, true, &host.job())
    };
    let said = |kernel_version: &str| Description { kernel_version: Some(kernel_version.into()), ..Default::default() };
    assert!(import(said("6.2.0")).is_err());
    assert!(import(Description { arch: Some("aarch64".into()), ..Default::default() }).is_err());
    let kernel = import(Description { distro: Some("mine".into()), ..said(RELEASE) }).unwrap();
    assert_eq!(kernel.manifest.distro, "mine");
}

#[test]
fn packages_that_are_no_kernels_or_mean_harm_leave_nothing() {
    let host = Host::new();
    let vmlinuz = format!("./boot/vmlinuz-{RELEASE}");
    let image = || Member::File(&vmlinuz, packed_kernel());
    let file = |path| Member::File(path, b"x".to_vec());
    let tree = |name: &str| format!("./lib/modules/{RELEASE}/{name}");
    let (a, b, link, fifo) = (tree("a"), tree("b"), tree("link"), tree("fifo"));
    let (second, bad_release) = ("./boot/vmlinuz-6.2", "./lib/modules/6.1 $(x)/a");
    let cases: Vec<(&str, Vec<Member<'_>>)> = vec![
        ("there is no kernel image in it", vec![file("./usr/share/doc/x")]),
        ("there is more than one kernel image in it", vec![image(), Member::File(second, packed_kernel())]),
        (
            "for another machine",
            vec![Member::File(&vmlinuz, {
                let mut elf = vmlinux(false);
                elf[18] = 183;
                elf
            })],
        ),
        ("it is not a bzImage", vec![file(&vmlinuz)]),
        ("is not a plain relative path", vec![image(), file("/etc/passwd")]),
        ("is not a plain relative path", vec![image(), file("./lib/modules/../../../x")]),
        ("is there twice", vec![image(), file(&a), file(&a)]),
        ("is a fifo", vec![image(), Member::Fifo(&fifo)]),
        ("does not lead to anything inside", vec![image(), Member::Link(&link, "../../../../secret")]),
        ("does not lead to anything inside", vec![image(), Member::Link(&link, "/etc/passwd")]),
        ("does not lead to anything inside", vec![image(), Member::Link(&link, "..")]),
        ("does not lead to anything inside", vec![image(), Member::HardLink(&b, "./etc/passwd")]),
        ("is not a plain relative path", vec![image(), Member::HardLink(&b, "../../../etc/passwd")]),
        ("there are modules for", vec![image(), file(&a), file("./lib/modules/6.2.0/a")]),
        ("is not a kernel release", vec![image(), file(bad_release)]),
        ("and the module tree says 6.2.0", vec![image(), file("./lib/modules/6.2.0/modules.dep")]),
    ];
    for (expected, members) in cases {
        let error = host.refused(&host.write("x.deb", &deb("amd64", &members)));
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let error = host.refused(&host.write("x.deb", &deb("arm64", &[image()])));
    assert_eq!(error, "it is for arm64, and this host is x86_64");
    assert!(host.refused(&host.write("x.deb", b"!<arch>\nrubbish")).contains("malformed"));
}

#[test]
fn other_things_are_no_kernels() {
    let host = Host::new();
    assert!(host.refused(&host.path("missing")).starts_with("cannot read "));
    assert!(host.refused(Path::new("/dev/null")).contains("neither a directory nor a regular file"));
    assert!(host.refused(&host.write("empty", b"")).contains("it is not a bzImage"));
    host.write("dir/readme", b"x");
    assert_eq!(host.refused(&host.path("dir")), "there is no kernel image in it");
    let mut elf = vmlinux(true);
    let banner = elf.windows(RELEASE.len()).position(|window| window == RELEASE.as_bytes()).unwrap();
    elf[banner] = b'x';
    assert_eq!(host.refused(&host.write("nameless", &elf)), Unusable::NoRelease.to_string());
    let cut = vmlinux(true);
    assert!(host.refused(&host.write("cut", &cut[..cut.len() - 1])).contains("it is cut off"));
}

#[test]
fn special_files_among_a_directorys_modules_are_refused() {
    let host = Host::new();
    host.write("k/vmlinux", &vmlinux(true));
    host.write("k/modules/modules.dep", b"");
    let socket = host.path("k/modules/talk");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let said = host.refused(&host.path("k"));
    assert!(said.contains("talk") && said.contains("special file"), "{said}");
    std::fs::remove_file(&socket).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &socket, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let said = host.refused(&host.path("k"));
    assert!(said.contains("talk") && said.contains("special file"), "{said}");
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let host = Host::new();
    let from = host.write("kernel", &packed_kernel());
    host.cancel.cancel();
    assert!(matches!(host.import(&from), Err(KernelError::Cancelled(_))));
    assert!(host.stored().is_empty());
}
