//! `exec -t`: the guest's command on the user's terminal.

use crate::{SOON, delete, start};
use banger_testkit::TestEnv;

#[test]
fn size_input_and_resize_reach_the_command() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "t");
    let line = "tty; echo size $(stty size); read line; echo got $line; \
                until test \"$(stty size)\" = '22 77'; do sleep 0.05; done; echo resized; exit 6";
    let mut terminal = env.banger(["vm", "exec", "-t", "t", "--", "sh", "-c", line]).spawn_on_terminal(91, 33);
    terminal.wait_for("size 33 91", SOON);
    terminal.type_in("something\r");
    terminal.wait_for("got something", SOON);
    terminal.resize(77, 22);
    terminal.wait_for("resized", SOON);
    terminal.finish(SOON).expect(6);
    delete(&env, "t");
}

#[test]
fn keys_that_are_signals_are_the_commands() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "k");
    let line = "trap 'echo caught; exit 9' INT; echo waiting; while :; do sleep 0.1; done";
    let mut terminal = env.banger(["vm", "exec", "-t", "k", "--", "sh", "-c", line]).spawn_on_terminal(80, 24);
    terminal.wait_for("waiting", SOON);
    terminal.type_in("\u{3}");
    terminal.wait_for("caught", SOON);
    terminal.finish(SOON).expect(9);
    delete(&env, "k");
}
