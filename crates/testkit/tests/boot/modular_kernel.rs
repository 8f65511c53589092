//! A distribution's kernel, whose drivers are modules, imported from its package.

use crate::{BOOT, delete, sh, start_with};
use banger_testkit::{TestEnv, package, shared};
use std::collections::BTreeSet;

const NAME: &str = "cloud-6.1";

#[test]
fn a_package_boots_loads_what_it_needs_and_more_on_request() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let golden = env.banger(["kernel", "show", "debian-6.1", "--json"]).run().expect(0).json();
    let source = golden["source"].as_str().unwrap();
    let name = source.split(' ').nth(1).unwrap_or_else(|| panic!("no package in {source:?}"));
    let deb = package(env.home(), name);
    let from = deb.to_str().unwrap();
    env.banger(["kernel", "import", NAME, "--from", from, "--distro", "debian"]).patience(BOOT).run().expect(0);
    let taken = env.banger(["kernel", "import", NAME, "--from", from]).run().expect(1);
    assert!(taken.err().contains("already") && taken.err().contains("--force"), "{taken}");

    let kernel = env.banger(["kernel", "show", NAME, "--json"]).run().expect(0).json();
    assert!(kernel["source"].as_str().is_some_and(|it| it.starts_with(&format!("deb {name} "))), "{kernel:#}");
    assert_eq!(kernel["boot_modules"], golden["boot_modules"], "apt or file, it is the same package");
    assert_eq!((&kernel["sha256"], &kernel["modified"]), (&golden["sha256"], &false.into()));

    start_with(&env, "m", &["--kernel", NAME]);
    let release = kernel["kernel_version"].as_str().unwrap();
    assert_eq!(sh(&env, "m", "uname -r").trim(), release);
    let needed = needed(&env);
    assert_eq!(loaded(&env), needed, "exactly what reaches disks and agent");
    let mounted = "grep -c 'lib/modules/[^ ]* ext4 ro' /proc/mounts; ls /lib/modules";
    assert_eq!(sh(&env, "m", mounted), format!("1\n{release}\n"));

    // One of another kind, and what it depends on.
    sh(&env, "m", "modprobe bridge");
    let more: BTreeSet<String> = loaded(&env).difference(&needed).cloned().collect();
    assert_eq!(more, ["bridge", "llc", "stp"].map(str::to_owned).into());
    sh(&env, "m", "test -d /sys/module/bridge");
    delete(&env, "m");
}

/// What a guest needs of Debian's cloud kernel, whose ext4 is built in: where its devices are, what its root is mounted
/// with, and the driver of each device it shows. Written out here, whatever the manifest says.
#[track_caller]
fn needed(env: &TestEnv) -> BTreeSet<String> {
    let mut needed: BTreeSet<&str> = ["virtio_ring", "virtio", "virtio_mmio", "overlay"].into();
    let devices = sh(env, "m", "cat /sys/bus/virtio/devices/*/device");
    for device in devices.lines() {
        needed.extend::<&[&str]>(match device {
            "0x0001" => &["failover", "net_failover", "virtio_net"],
            "0x0002" => &["virtio_blk"],
            "0x0003" => &["virtio_console"],
            "0x0013" => &["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"],
            other => panic!("a device {other} among {devices:?}"),
        });
    }
    assert!(devices.contains("0x0002"), "disks: {devices:?}");
    // One way to the agent is there, and one only.
    assert_ne!(devices.contains("0x0003"), devices.contains("0x0013"), "{devices:?}");
    needed.into_iter().map(str::to_owned).collect()
}

/// The modules a guest has loaded.
#[track_caller]
fn loaded(env: &TestEnv) -> BTreeSet<String> {
    sh(env, "m", "cut -d' ' -f1 /proc/modules").lines().map(str::to_owned).collect()
}
