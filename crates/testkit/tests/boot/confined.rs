//! What a real VMM is left with, as its host sees it.

use crate::{delete, start_with};
use banger_testkit::{TestEnv, require, shared};
use std::{collections::BTreeSet, fs};

#[test]
fn qemu_has_no_capability_a_root_of_its_own_and_limits() {
    let _machine = shared();
    is_confined("qemu");
}

#[test]
fn firecracker_has_no_capability_a_root_of_its_own_and_limits() {
    let _machine = shared();
    if require("firecracker") && require("kvm-guests") {
        is_confined("firecracker");
    }
}

/// The same is true of every monitor.
fn is_confined(monitor: &str) {
    if !require("userns") {
        return;
    }
    let Some(env) = TestEnv::real() else { return };
    start_with(&env, "kept", &["--vmm", monitor]);
    let vm = env.vm("kept");
    assert!(vm["unconfined"].is_null() && vm["vmm"] == monitor, "{vm:#}");
    let (vmm, shim) = (env.vm_process("kept", "vmm_pid"), env.vm_process("kept", "shim_pid"));
    let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", vmm.pid)).expect("it runs");

    let status = of("status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {status}");
    }
    for line in ["NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        assert!(status.contains(line), "{line:?}: {status}");
    }
    for kind in ["user", "mnt", "pid"] {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
        assert_ne!(namespace(vmm.pid), namespace(shim.pid), "{kind}");
    }
    // Soft and hard.
    let limits = of("limits");
    for (name, limit) in [
        // The one limit that also keeps a program which takes cores from having one.
        ("Max core file size", "1"),
        ("Max open files", "4096"),
        ("Max msgqueue size", "0"),
        ("Max realtime priority", "0"),
    ] {
        let line =
            limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {limits}"));
        let both: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(both, [limit, limit], "{name}");
    }
    let longest = limits.lines().find_map(|line| line.strip_prefix("Max file size")).expect("a limit");
    assert!(!longest.contains("unlimited"), "{longest}");

    // Its root has its own files at fixed names, what its program is made of, and nothing of the host's.
    let root = fs::read_dir(format!("/proc/{}/root", vmm.pid)).expect("its root").flatten();
    let names: BTreeSet<String> = root.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.contains("kernel") && names.contains("initrd") && names.contains("disk0"), "{names:?}");
    for host in ["home", "root", "tmp", "run", "var", "proc", "sys", "mnt", "opt", "srv"] {
        assert!(!names.contains(host), "{host} in {names:?}");
    }
    delete(&env, "kept");
}
