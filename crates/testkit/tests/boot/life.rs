//! A VM that stays: made, used, stopped, started, deleted.

use crate::{BOOT, delete, sh, start};
use banger_testkit::{TestEnv, shared, wait_until};

#[test]
fn a_named_vm_through_its_life() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "demo");
    assert_eq!(env.vm_state("demo"), "running");
    let out = sh(&env, "demo", "echo $HOSTNAME; hostname; cat /etc/os-release");
    assert!(out.contains("demo\n") && out.contains("VERSION_CODENAME=bookworm"), "{out}");

    let ps = env.banger(["ps"]).run().expect(0).out();
    assert!(ps.lines().next().is_some_and(|head| head.starts_with("ID")), "{ps}");
    assert!(ps.contains("demo") && ps.contains("running"), "{ps}");
    let list = env.banger(["vm", "list", "--json"]).run().expect(0).json();
    assert_eq!(list[0]["name"], "demo", "{list:#}");
    let logs = env.banger(["vm", "logs", "demo"]).run().expect(0).out();
    assert!(logs.contains("] "), "no line of the guest's kernel: {logs}");

    // The agent is the first process here, and whoever loses its parent is its child.
    let orphan = sh(&env, "demo", "sh -c 'sleep 1 >/dev/null 2>&1 & echo $!'");
    let orphan = orphan.trim();
    assert!(orphan.parse::<u32>().is_ok(), "no pid: {orphan:?}");
    wait_until(BOOT, "the reaping of an orphan", || {
        let line = format!("cat /proc/{orphan}/stat; grep -ls '^State:.*zombie' /proc/[0-9]*/status; true");
        let left = sh(&env, "demo", &line);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });

    env.banger(["vm", "stop", "demo"]).run().expect(0);
    assert_eq!(env.vm_state("demo"), "stopped");
    assert!(env.processes("banger-shim").is_empty());
    let refused = env.banger(["vm", "exec", "demo", "--", "true"]).run().expect(125);
    assert!(refused.err().contains("banger vm start demo"), "{refused}");

    env.banger(["vm", "start", "demo"]).run().expect(0);
    assert_eq!(sh(&env, "demo", "echo again"), "again\n");
    delete(&env, "demo");
}

#[test]
fn systemd_reaches_running_and_the_agent_answers_all_along() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    env.banger([
        "vm", "run", "--name", "full", "-d", "--memory", "512M", "--init", "image", "--wait", "boot", "--quiet",
    ])
    .patience(BOOT)
    .run()
    .expect(0);
    let vm = env.vm("full");
    assert_eq!(vm["boot_state"], "running", "{}", sh(&env, "full", "systemctl --failed --no-legend --plain; true"));
    assert_eq!(sh(&env, "full", "systemctl is-system-running"), "running\n");
    sh(&env, "full", "systemctl daemon-reload && systemctl daemon-reexec");
    assert_eq!(sh(&env, "full", "cat /proc/1/comm"), "systemd\n");
    // Stops everything that does not belong to the target, which the agent and its commands must not be. A service that
    // comes up beside a message bus that is not there yet is started again.
    let isolate = |target: &str, logind: &str| {
        sh(&env, "full", &format!("systemctl isolate {target}"));
        wait_until(BOOT, target, || match sh(&env, "full", "systemctl is-active systemd-logind; true") {
            state if state.trim() == logind => Ok(()),
            state => Err(state),
        });
    };
    isolate("rescue.target", "inactive");
    isolate("multi-user.target", "active");
    env.banger(["vm", "stop", "full"]).run().expect(0);
    assert_eq!(env.vm_state("full"), "stopped");
    delete(&env, "full");
}

#[test]
fn a_stop_while_services_start_loses_nothing_that_was_written() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let run =
        ["vm", "run", "--name", "early", "-d", "--memory", "512M", "--init", "image", "--wait", "boot", "--quiet"];
    let session = env.banger(run).spawn();
    wait_until(BOOT, "the agent", || {
        let list = env.banger(["ps", "--json"]).run().expect(0).json();
        if list[0]["state"] == "running" { Ok(()) } else { Err(format!("{list:#}")) }
    });
    sh(&env, "early", "echo precious > /root/kept");
    env.banger(["vm", "stop", "early"]).patience(BOOT).run().expect(0);
    assert_eq!(env.vm_state("early"), "stopped");
    let out = session.finish(BOOT).expect(125);
    assert!(out.err().contains("the wait for its services was cut short"), "{out}");
    env.banger(["vm", "start", "early"]).patience(BOOT).run().expect(0);
    assert_eq!(sh(&env, "early", "cat /root/kept"), "precious\n");
    delete(&env, "early");
}

#[test]
fn several_execs_at_once_do_not_disturb_each_other() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    start(&env, "busy");
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|i| {
                let (env, bytes) = (&env, &bytes);
                scope.spawn(move || {
                    let line = format!("cat; echo {i} >&2; exit {i}");
                    let out = env.banger(["vm", "exec", "busy", "--", "sh", "-c", &line]).stdin(bytes.clone()).run();
                    let out = out.expect(i);
                    assert!(out.stdout == *bytes && out.err() == format!("{i}\n"), "{}", out.err());
                })
            })
            .collect();
        for run in runs {
            run.join().expect("no exec failed");
        }
    });
    delete(&env, "busy");
}
