//! The whole product on Firecracker, without a virtual machine: the fake Firecracker speaks the real one's API and vsock.

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
