//! The whole product on Firecracker, without a virtual machine: the fake Firecracker speaks the real one's API and
//! vsock.

use crate::{SOON, delete, start};
use banger_testkit::TestEnv;
use rustix::process::Signal;

#[test]
fn a_vm_through_its_life_on_firecracker() {
    let Some(env) = TestEnv::fake_firecracker() else { return };
    start(&env, "f");
    let vm = env.vm("f");
    assert_eq!((vm["vmm"].as_str(), vm["accelerator"].as_str()), (Some("firecracker"), Some("kvm")), "{vm:#}");
    assert!(vm["vmm_reason"].as_str().is_some_and(|reason| reason.contains("Firecracker 1.15.99")), "{vm:#}");
    // What a fake's guest runs are programs of this host, so fakes are not confined.
    assert_eq!(vm["unconfined"], "BANGER_VMM_CONFINEMENT=off", "{vm:#}");
    let shown = env.banger(["vm", "show", "f"]).run().expect(0).out();
    assert!(shown.contains("incomplete: BANGER_VMM_CONFINEMENT=off"), "{shown}");
    // Both directions, half-closed, and a status: what Firecracker's own vsock could not carry.
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let out = env.banger(["vm", "exec", "f", "--", "sh", "-c", "cat; exit 7"]).stdin(bytes.clone()).run().expect(7);
    assert!(out.stdout == bytes, "{} bytes", out.stdout.len());
    let logs = env.banger(["vm", "logs", "f"]).run().expect(0).out();
    assert!(logs.contains("Linux version"), "{logs}");
    env.banger(["vm", "restart", "f"]).run().expect(0);
    env.banger(["vm", "stop", "f"]).run().expect(0);
    assert_eq!(env.vm_state("f"), "stopped");
    delete(&env, "f");
}

#[test]
fn a_later_daemon_adopts_a_firecracker_and_a_dead_one_has_failed() {
    let Some(env) = TestEnv::fake_firecracker() else { return };
    start(&env, "a");
    let vmm = env.vm_process("a", "vmm_pid");
    let daemon = env.daemon().expect("a daemon");
    assert!(daemon.signal(Signal::KILL));
    daemon.wait_gone(SOON);
    assert_eq!(env.vm_process("a", "vmm_pid").pid, vmm.pid);
    env.banger(["vm", "exec", "a", "--", "true"]).run().expect(0);
    // A killed shim leaves the monitor's sockets; the next release takes them.
    let shim = env.vm_process("a", "shim_pid");
    assert!(shim.signal(Signal::KILL));
    vmm.wait_gone(SOON);
    env.wait_state("a", "failed", SOON);
    delete(&env, "a");
}

#[test]
fn a_kernel_without_vsock_is_refused_before_anything_starts() {
    let Some(env) = TestEnv::fake_firecracker() else { return };
    let manifest = env.layout().kernel(&"debian-6.1".parse().expect("a name")).join("manifest.json");
    let text = std::fs::read(&manifest).expect("the kernel's manifest");
    let mut json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    json["missing_drivers"] = serde_json::json!(["vmw_vsock_virtio_transport"]);
    // As an earlier banger wrote it, without the hashes it did not know.
    json.as_object_mut()
        .expect("an object")
        .retain(|field, _| field != "manifest_sha256" && field != "modules_image_sha256");
    // Not through the hard link, which others share.
    std::fs::remove_file(&manifest).expect("a link");
    std::fs::write(&manifest, json.to_string()).expect("a manifest");
    let out = env.banger(["vm", "run", "--name", "mute", "--", "true"]).run().expect(125);
    assert!(out.err().contains("error: firecracker cannot run VM mute with kernel debian-6.1\n"), "{out}");
    assert!(out.err().contains("no driver for virtio sockets") && out.err().contains("--vmm"), "{out}");
    assert_eq!(crate::vms(&env), []);
    assert!(env.processes("banger-shim").is_empty());
    env.assert_nothing_left();
}

#[test]
fn auto_is_what_works_here_whatever_is_configured_and_nothing_said_is_what_is_configured() {
    let Some(env) = TestEnv::fake() else { return };
    let program = |name: &str| banger_testkit::bin_dir().join(name).display().to_string();
    let (qemu, firecracker) = (program("fake-qemu"), program("fake-firecracker"));
    let programs = format!("qemu_bin = \"{qemu}\"\nfirecracker_bin = \"{firecracker}\"\n");
    env.configure(&programs);
    let runs_on = |name: &str, more: &[&str]| {
        env.banger(["vm", "run", "-d", "--name", name].iter().chain(more)).run().expect(0);
        let vmm = env.vm(name)["vmm"].as_str().expect("a VMM that runs").to_owned();
        env.banger(["vm", "delete", "-f", name]).run().expect(0);
        vmm
    };
    let works_here = runs_on("a", &["--vmm", "auto"]);
    assert_eq!(runs_on("b", &[]), works_here, "nothing is configured");
    let other = if works_here == "qemu" { "firecracker" } else { "qemu" };
    env.banger(["daemon", "stop"]).run().expect(0);
    env.configure(&format!("vmm = \"{other}\"\n{programs}"));
    assert_eq!(runs_on("b", &[]), other);
    assert_eq!(runs_on("c", &["--vmm", "auto"]), works_here);
    assert_eq!(runs_on("d", &["--vmm", &works_here]), works_here);
    // Kept with the VM: each start looks, by the same rule.
    env.banger(["vm", "create", "--no-start", "--name", "e", "--vmm", "auto"]).run().expect(0);
    env.banger(["vm", "start", "e"]).run().expect(0);
    assert_eq!(env.vm("e")["vmm"], *works_here);
    delete(&env, "e");
}

#[test]
fn a_vm_has_no_monitor_before_one_is_named_or_chosen() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "open", "--vmm", "auto"]).run().expect(0);
    env.banger(["vm", "create", "--no-start", "--name", "named", "--vmm", "qemu"]).run().expect(0);
    assert!(env.vm("open")["vmm"].is_null());
    assert_eq!(env.vm("named")["vmm"], "qemu");
    let shown = env.banger(["vm", "show", "open"]).run().expect(0).out();
    assert!(!shown.lines().any(|line| line.starts_with("vmm")), "{shown}");
    let list = env.banger(["vm", "list"]).run().expect(0).out();
    let monitor = |name: &str| {
        let row = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row[1] == name);
        row.expect("a row")[4].to_owned()
    };
    assert_eq!((monitor("open").as_str(), monitor("named").as_str()), ("-", "qemu"), "{list}");
    env.banger(["vm", "start", "open"]).run().expect(0);
    let vmm = env.vm("open")["vmm"].clone();
    assert!(vmm.is_string());
    env.banger(["vm", "stop", "--timeout", "50s", "open"]).run().expect(0);
    assert_eq!(env.vm("open")["vmm"], vmm, "it is the one that it ran on last");
    env.banger(["vm", "delete", "open", "named"]).run().expect(0);
    env.assert_nothing_left();
}
