//! Sessions on a terminal, which is raw while they last and restored afterwards, however they end.

use crate::{fake::DEADLINE, session::World};
use banger_testkit::{Identity, Invocation};
use rustix::process::Signal;

/// Runs `banger ARGS` in a shell that then prints the terminal's settings.
fn then_stty(world: &World, args: &str) -> Invocation {
    let script = format!(
        "stty -g > before; {} {args}; echo \"status $?\"; stty -g > after; echo over",
        env!("CARGO_BIN_EXE_banger")
    );
    world.daemon.env.program("bash").args(["-c", &script]).env("TERM", "xterm")
}

/// Checks that the terminal is restored.
#[track_caller]
fn assert_restored(world: &World) {
    let mode = |name: &str| std::fs::read_to_string(world.daemon.env.home().join("home").join(name)).unwrap();
    assert_eq!(mode("before"), mode("after"));
}

#[test]
fn a_shell_gets_keys_as_bytes_and_gives_the_terminal_back() {
    let world = World::new();
    let mut terminal = then_stty(&world, "run").spawn_on_terminal(100, 30);
    terminal.wait_for("$ ", DEADLINE);
    terminal.type_in("\x03");
    terminal.wait_for("[3]", DEADLINE);
    terminal.type_in("\x1a");
    terminal.wait_for("[26]", DEADLINE);
    terminal.type_in("\r");
    terminal.wait_for("[13]", DEADLINE);
    terminal.type_in("q");
    terminal.wait_for("status 5", DEADLINE);
    terminal.wait_for("over", DEADLINE);
    assert!(terminal.so_far().contains("VM demo is still up"), "{}", terminal.so_far());
    assert_restored(&world);
    let spec = &world.agent.specs()[0];
    let size = spec.tty.unwrap();
    assert_eq!((spec.argv.len(), size.cols, size.rows, spec.env["TERM"].as_str()), (0, 100, 30, "xterm"));
}

#[test]
fn the_size_follows_the_window() {
    let world = World::new();
    let terminal = world.daemon.banger(["exec", "-t", "demo", "size"]).spawn_on_terminal(90, 20);
    terminal.wait_for("90x20", DEADLINE);
    terminal.resize(123, 45);
    terminal.wait_for("123x45", DEADLINE);
    terminal.finish(DEADLINE).expect(0);
}

#[test]
fn a_signal_from_outside_ends_it_and_gives_the_terminal_back() {
    for (signal, status) in [(Signal::TERM, "status 143"), (Signal::HUP, "status 129")] {
        let world = World::new();
        let terminal = then_stty(&world, "run --rm").spawn_on_terminal(80, 24);
        terminal.wait_for("$ ", DEADLINE);
        let shell = world.daemon.env.processes("banger");
        let banger: &Identity = shell.first().expect("banger runs");
        assert!(banger.signal(signal));
        terminal.wait_for(status, DEADLINE);
        terminal.wait_for("over", DEADLINE);
        assert_restored(&world);
        world.daemon.wait_asked("closed POST /v1/vms");
        assert!(!terminal.so_far().contains("is still up"), "never with --rm: {}", terminal.so_far());
    }
}

#[test]
fn a_command_without_a_terminal_leaves_ours_alone() {
    let world = World::new();
    let mut terminal = then_stty(&world, "exec demo wait").spawn_on_terminal(80, 24);
    terminal.wait_for("waiting", DEADLINE);
    // The line discipline turns it into a signal, for the shell too, which waits until banger has ended.
    terminal.type_in("\x03");
    terminal.wait_for("signal 2", DEADLINE);
    assert_eq!(world.agent.specs()[0].tty, None);
}

#[test]
fn a_terminal_can_be_asked_for_without_having_one() {
    let world = World::new();
    let run = world.daemon.banger(["exec", "-t", "demo", "exit", "0"]).run().expect(0);
    assert_eq!(run.err(), "");
    assert!(world.agent.specs()[0].tty.is_some());
}
