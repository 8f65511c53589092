//! `poweroff` and `reboot` typed in the guest do what they say, under the agent and under the image's init.

use crate::{BOOT, delete, sh};
use banger_testkit::{TestEnv, shared, wait_until};

#[test]
fn poweroff_and_reboot_under_the_agent() {
    let _machine = shared();
    power("agent");
}

#[test]
fn poweroff_and_reboot_under_systemd() {
    let _machine = shared();
    power("image");
}

#[track_caller]
fn power(init: &str) {
    let Some(env) = TestEnv::real() else { return };
    let args = ["vm", "run", "--name", "p", "-d", "--memory", "512M", "--quiet", "--wait", "boot", "--init", init];
    env.banger(args).patience(BOOT).run().expect(0);
    let boot_id = |env: &TestEnv| env.vm("p")["boot_id"].as_str().unwrap_or_default().to_owned();
    let (first, first_vmm) = (boot_id(&env), env.vm_process("p", "vmm_pid"));
    sh(&env, "p", "echo kept > /root/kept");

    // systemd listens to `poweroff` some time after the agent answers.
    let is_up = |env: &TestEnv| !env.vm("p")["boot_state"].is_null();
    // Its own end may reach the client before the status does: what counts is what the machine does.
    env.banger(["vm", "exec", "p", "--", "reboot"]).run();
    wait_until(BOOT, "a fresh kernel", || {
        let (state, id) = (env.vm_state("p"), boot_id(&env));
        if state == "running" && id != first && !id.is_empty() && is_up(&env) {
            Ok(())
        } else {
            Err(format!("{state}, {id}"))
        }
    });
    assert!(!first_vmm.is_alive());
    assert_eq!(sh(&env, "p", "cat /root/kept"), "kept\n");

    env.banger(["vm", "exec", "p", "--", "poweroff"]).run();
    env.wait_state("p", "stopped", BOOT);
    assert!(env.processes("banger-shim").is_empty());
    delete(&env, "p");
}
