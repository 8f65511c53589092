//! `vm run` without a command: a shell on a terminal, and a VM that stays.

use crate::{BOOT, delete};
use banger_testkit::{TestEnv, shared, wait_until};

#[test]
fn a_shell_on_a_terminal_that_is_resized() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let args = ["vm", "run", "--name", "shell", "--memory", "256M", "--init", "agent"];
    let mut terminal = env.banger(args).env("TERM", "xterm").spawn_on_terminal(91, 33);
    terminal.wait_for("# ", BOOT);
    // The answer differs from what is typed, so that the terminal's echo is not taken for it.
    terminal.type_in("echo size is $(stty size)\r");
    terminal.wait_for("size is 33 91", BOOT);
    terminal.resize(77, 22);
    // The size travels beside the keys and may come after them.
    terminal.type_in("until test \"$(stty size)\" = '22 77'; do sleep 0.1; done; echo re''sized\r");
    terminal.wait_for("resized", BOOT);
    terminal.type_in("tty; echo $TERM-$((6 * 7)); exit 5\r");
    terminal.wait_for("/dev/pts/", BOOT);
    terminal.wait_for("xterm-42", BOOT);
    let out = terminal.finish(BOOT).expect(5);
    assert!(out.out().contains("banger vm stop shell"), "no reminder how to stop it: {out}");
    assert_eq!(env.vm_state("shell"), "running");

    // A shell does not heed TERM, and with some time for it is no reason to end the machine by force.
    let left = env.banger(["vm", "exec", "-t", "shell", "--", "sh"]).spawn_on_terminal(80, 24);
    left.wait_for("# ", BOOT);
    env.banger(["vm", "stop", "--timeout", "20s", "shell"]).run().expect(0);
    assert_eq!(env.exit_cause("shell"), "poweroff");
    left.finish(BOOT);
    delete(&env, "shell");
}

#[test]
fn ctrl_c_goes_to_the_command_in_the_guest() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let line = "trap 'echo caught; exit 3' INT; echo waiting; while :; do sleep 1; done";
    let args = ["vm", "run", "--rm", "--name", "int", "--memory", "256M", "--", "sh", "-c", line];
    let session = env.banger(args).spawn();
    session.wait_stdout("waiting\n", BOOT);
    session.signal(rustix::process::Signal::INT);
    let out = session.finish(BOOT).expect(3);
    assert_eq!(out.out(), "waiting\ncaught\n");
    env.assert_nothing_left();
}

#[test]
fn ctrl_c_while_it_boots_leaves_nothing() {
    let _machine = shared();
    let Some(env) = TestEnv::real() else { return };
    let run = env.banger(["vm", "run", "--name", "early", "--memory", "256M", "--", "true"]).spawn();
    let vms = || env.banger(["vm", "list", "-a", "--json"]).run().expect(0).json();
    wait_until(BOOT, "a VMM that boots", || {
        let vms = vms();
        if vms[0]["state"] == "starting" && vms[0]["vmm_pid"].is_u64() { Ok(()) } else { Err(format!("{vms:#}")) }
    });
    run.signal(rustix::process::Signal::INT);
    run.finish(BOOT).expect(130);
    wait_until(BOOT, "the VM's deletion", || {
        let vms = vms();
        if vms == serde_json::json!([]) { Ok(()) } else { Err(format!("{vms:#}")) }
    });
    env.assert_nothing_left();
}
