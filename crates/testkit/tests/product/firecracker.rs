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
