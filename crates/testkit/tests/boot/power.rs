//! `poweroff` and `reboot` typed in the guest do what they say, under the agent and under the image's init.

use crate::{BOOT, delete, sh};
use banger_testkit::{TestEnv, shared, wait_until};
use std::time::SystemTime;

const HOUR: u64 = 3600;

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

#[track_caller]
fn seconds(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("no seconds: {text:?}"))
}

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

    sh(&env, "p", "date --set=2001-02-03");
    let drift = seconds(&sh(&env, "p", "date +%s")).abs_diff(now());
    assert!(drift < HOUR, "the next command finds the clock {drift} s off");

    // systemd listens to `poweroff` some time after the agent answers.
    let is_up = |env: &TestEnv| !env.vm("p")["boot_state"].is_null();
    // Its own end may reach the client before the status does: what counts is what the machine does.
    let before_reboot = now();
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
    // Written by the agent once it had set the clock, and before any command could mend it.
    let booted = seconds(&sh(&env, "p", "stat --format=%Y /run/initramfs/agent.pid"));
    assert!(booted + 1 >= before_reboot, "the new boot began {} s in the past", before_reboot - booted);

    env.banger(["vm", "exec", "p", "--", "poweroff"]).run();
    env.wait_state("p", "stopped", BOOT);
    assert!(env.processes("banger-shim").is_empty());
    delete(&env, "p");
}
