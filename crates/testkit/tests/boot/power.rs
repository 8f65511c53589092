//! `poweroff` and `reboot` typed in the guest do what they say, under the agent and under the image's init.

use crate::{BOOT, delete, sh};
use banger_testkit::{TestEnv, shared, wait_until};
use std::time::SystemTime;

/// A unit that stops only once it is let.
const SLOW: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nTimeoutStopSec=120\n\
                    ExecStop=/bin/sh -c 'until test -e /run/let; do sleep 0.05; done'\n";
/// A command that has something to say when systemd asks what is left to end.
const LAST_WORDS: &str = "trap 'echo last words; exit 7' TERM; echo up; while :; do sleep 0.1; done";

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

#[test]
fn the_agent_answers_until_the_end_of_systemds_poweroff() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let args = ["vm", "run", "--name", "off", "-d", "--memory", "512M", "--quiet", "--wait", "boot", "--init", "image"];
    env.banger(args).patience(BOOT).run().expect(0);
    // Its guard has nothing to do with the image's init, and starts another when it dies.
    let agent = sh(&env, "off", "cat /run/initramfs/agent.pid");
    env.banger(["vm", "exec", "off", "--", "sh", "-c", &format!("kill -9 {agent}")]).run().expect(125);
    let again = wait_until(BOOT, "another agent", || {
        let out = env.banger(["vm", "exec", "off", "--", "cat", "/run/initramfs/agent.pid"]).run();
        if out.code() == 0 && out.out() != agent { Ok(out.out()) } else { Err(out.to_string()) }
    });
    assert_eq!(
        sh(&env, "off", "cat /proc/$(cat /run/initramfs/agent.pid)/cmdline /proc/1/comm"),
        "@banger-agent\0systemd\n"
    );
    assert_eq!(env.vm_state("off"), "running");

    sh(&env, "off", &format!("printf %s \"{SLOW}\" > /run/systemd/system/slow.service; systemctl start slow"));
    let session = env.banger(["vm", "exec", "off", "--", "sh", "-c", LAST_WORDS]).spawn();
    session.wait_stdout("up\n", BOOT);
    env.banger(["vm", "exec", "off", "--", "systemctl", "poweroff", "--no-block"]).run();
    // systemd is on its way down and waits for the unit; commands run as ever.
    wait_until(BOOT, "systemd to stop units", || {
        let state = sh(&env, "off", "systemctl is-system-running; systemctl is-active slow; true");
        if state == "stopping\ndeactivating\n" { Ok(()) } else { Err(state) }
    });
    let health = env.banger(["vm", "health", "off", "--json"]).run().expect(0).json();
    assert!(health["boot_id"].is_string(), "{health:#}");
    assert_eq!(sh(&env, "off", "cat /run/initramfs/agent.pid"), again, "the same agent");
    sh(&env, "off", "touch /run/let");
    // What ran is asked to end by the last program of systemd's but one, and its stream is whole.
    let out = session.finish(BOOT).expect(7);
    assert_eq!(out.out(), "up\nlast words\n");
    env.wait_state("off", "stopped", BOOT);
    delete(&env, "off");
}
