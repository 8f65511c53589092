//! `run` and `exec`: streams, exit statuses and leases.

use crate::{
    agent::Agent,
    fake::{DEADLINE, Daemon, Reply, done, vm},
};
use banger_testkit::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

/// A daemon whose VM `demo` has an agent.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    pub(crate) agent: Agent,
}

impl World {
    /// Creates a world in which everything works.
    pub(crate) fn new() -> Self {
        Self::answering(|_, _| None)
    }

    /// Creates a world in which `first` answers before the defaults.
    pub(crate) fn answering(first: impl Fn(&str, &Value) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let socket: Arc<OnceLock<PathBuf>> = Arc::default();
        let at = Arc::clone(&socket);
        let daemon = Daemon::answering(move |line, body| {
            first(line, body).or_else(|| {
                let ready = json!({ "event": "ready", "result": vm("dddddddddddd", "demo") });
                Some(match line {
                    "POST /v1/vms" if body["start"] == "leased" => Reply::Held(vec![ready]),
                    "POST /v1/vms" => Reply::Events(vec![done(&vm("dddddddddddd", "demo"))]),
                    "GET /v1/vms/demo/guest" | "GET /v1/vms/dddddddddddd/guest" => Reply::Json(json!({
                        "id": "dddddddddddd", "name": "demo", "socket": at.get(), "agent_api_version": 1
                    })),
                    "DELETE /v1/vms/dddddddddddd?force=true" => Reply::Events(vec![done(&Value::Null)]),
                    _ => return None,
                })
            })
        });
        let agent = Agent::at(socket.get_or_init(|| daemon.env.home().join("vsock")));
        Self { daemon, agent }
    }
}

#[test]
fn the_commands_status_is_ours() {
    let world = World::new();
    for code in [0, 1, 42, 137, 255] {
        world.daemon.banger(["exec", "demo", "--", "exit", &code.to_string()]).run().expect(code);
    }
    let missing = world.daemon.banger(["exec", "demo", "nope"]).run().expect(127);
    assert_eq!(missing.err(), "error: cannot start the command: nope: not found \\u{1b}[2J\n");
    // With --json it is a failure like any other; stdout belongs to the command.
    let missing = world.daemon.banger(["--json", "exec", "demo", "nope"]).run().expect(127);
    let failure: Value = serde_json::from_str(&missing.err()).unwrap();
    assert_eq!(
        (missing.out().as_str(), &failure["code"], &failure["message"]),
        ("", &json!("not_found"), &json!("cannot start the command: nope: not found \u{1b}[2J"))
    );
    let vanished = world.daemon.banger(["exec", "demo", "vanish"]).run().expect(125);
    assert!(vanished.err().contains("without saying how the command ended"), "{vanished}");
}

#[test]
fn streams_are_separate_and_exact() {
    let world = World::new();
    let both = world.daemon.banger(["exec", "demo", "both"]).run().expect(0);
    assert_eq!((both.stdout.as_slice(), both.stderr.as_slice()), (b"out\n".as_slice(), b"err \x1b[1m\n".as_slice()));
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let cat = world.daemon.banger(["exec", "demo", "--", "cat"]).stdin(bytes.clone()).run().expect(0);
    assert!(cat.stdout == bytes, "{} bytes came back", cat.stdout.len());
}

#[test]
fn an_open_stdin_does_not_hold_the_end() {
    let world = World::new();
    // Stdin stays open and silent until the session is dropped.
    let session = world.daemon.banger(["exec", "demo", "exit", "3"]).spawn();
    session.finish(DEADLINE).expect(3);
}

#[test]
fn a_reader_that_is_gone_ends_the_command() {
    let world = World::new();
    let script = format!("{} exec demo yes | head -c 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_banger"));
    let run = world.daemon.env.program("bash").args(["-c", &script]).run().expect(141);
    assert_eq!((run.out(), run.err()), ("y".into(), String::new()));
    wait_until(DEADLINE, "the end of the command in the guest", || match world.agent.ended() {
        1 => Ok(()),
        ended => Err(format!("{ended} ended")),
    });
}

#[test]
fn a_full_disk_is_not_a_guests_fault() {
    let world = World::new();
    let script = format!("{} exec demo both > /dev/full", env!("CARGO_BIN_EXE_banger"));
    let run = world.daemon.env.program("bash").args(["-c", &script]).run().expect(125);
    assert!(run.err().starts_with("error: cannot write to stdout\n  caused by: No space left on device"), "{run}");
}

#[test]
fn exec_flags_reach_the_agent() {
    let world = World::new();
    world
        .daemon
        .banger(["exec", "-e", "A=1", "-e", "HOME", "-w", "/src", "-u", "dev:1000", "demo", "--", "exit", "0"])
        .run()
        .expect(0);
    let spec = &world.agent.specs()[0];
    assert_eq!((spec.env["A"].as_str(), spec.env.contains_key("HOME")), ("1", true));
    assert_eq!((spec.cwd.as_deref(), spec.user.as_deref(), spec.tty), (Some("/src"), Some("dev:1000"), None));
}

#[test]
fn a_throw_away_vm_is_gone_before_the_end_is_told() {
    let world = World::answering(|line, body| {
        if line == "POST /v1/vms" {
            assert_eq!((&body["start"], &body["init"]), (&json!("leased"), &json!("agent")));
        }
        None
    });
    let run = world.daemon.banger(["run", "--rm", "--", "exit", "42"]).run().expect(42);
    assert_eq!((run.out(), run.err()), (String::new(), String::new()));
    world.daemon.wait_asked("closed POST /v1/vms");
    let asked = world.daemon.asked();
    // The lease is held until the delete is confirmed.
    let order = [
        "POST /v1/vms",
        "GET /v1/vms/dddddddddddd/guest",
        "DELETE /v1/vms/dddddddddddd?force=true",
        "closed POST /v1/vms",
    ];
    assert_eq!(asked, order);
}

#[test]
fn success_is_not_told_when_the_vm_may_be_left() {
    let world = World::answering(|line, _| {
        line.starts_with("DELETE").then(|| {
            let failure = json!({ "code": "internal", "message": "the disk is stuck" });
            Reply::Events(vec![json!({ "event": "failed", "failure": failure })])
        })
    });
    let good = world.daemon.banger(["run", "--rm", "--", "exit", "0"]).run().expect(125);
    assert!(good.err().contains("the disk is stuck") && good.err().contains("banger vm rm -f demo"), "{good}");
    let bad = world.daemon.banger(["run", "--rm", "--", "exit", "9"]).run().expect(9);
    assert!(bad.err().contains("the disk is stuck"), "{bad}");
}

#[test]
fn a_vm_somebody_else_deleted_is_gone_too() {
    let world = World::answering(|line, _| {
        line.starts_with("DELETE").then(|| Reply::Failure(404, json!({ "code": "not_found", "message": "gone" })))
    });
    assert_eq!(world.daemon.banger(["run", "--rm", "--", "exit", "0"]).run().expect(0).err(), "");
}

#[test]
fn a_vm_that_stays_is_pointed_at() {
    let world = World::new();
    let run = world.daemon.banger(["vm", "run", "--", "exit", "4"]).run().expect(4);
    insta::assert_snapshot!(run.err(), @"VM demo is still up: 'banger vm stop demo' stops it, 'banger vm rm -f demo' deletes it");
    assert_eq!(world.daemon.banger(["run", "--quiet", "--", "exit", "0"]).run().expect(0).err(), "");
    let detached = world.daemon.banger(["run", "-d"]).run().expect(0);
    assert_eq!((detached.out(), detached.err()), ("demo\n".into(), String::new()));
    assert_eq!(world.daemon.banger(["run", "-d", "--json"]).run().expect(0).json()["id"], "dddddddddddd");
}

#[test]
fn a_vm_that_does_not_come_up_is_banger_failing() {
    let world = World::answering(|line, _| {
        (line == "POST /v1/vms").then(|| {
            let failure = json!({
                "code": "timeout", "message": "VM demo did not become ready", "causes": ["last console lines:\nKernel panic"],
                "hints": ["banger vm logs demo", "banger vm rm demo"]
            });
            Reply::Events(vec![json!({ "event": "failed", "failure": failure })])
        })
    });
    let run = world.daemon.banger(["run", "--rm", "--", "exit", "0"]).run().expect(125);
    insta::assert_snapshot!(run.err(), @r"
    error: VM demo did not become ready
      caused by: last console lines:
        Kernel panic
    hint: banger vm logs demo
    hint: banger vm rm demo
    ");
    // The VM is kept, so that its console can be read.
    assert_eq!(world.daemon.asked(), ["POST /v1/vms"]);
}

#[test]
fn signals_reach_the_command() {
    let world = World::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)] {
        let session = world.daemon.banger(["exec", "demo", "wait"]).spawn();
        session.wait_stdout("waiting", DEADLINE);
        session.signal(signal);
        let output = session.finish(DEADLINE).expect(code);
        assert!(output.out().contains(&format!("signal {}", code - 128)), "{output}");
    }
}

#[test]
fn the_second_interrupt_leaves() {
    let world = World::new();
    let session = world.daemon.banger(["run", "--rm", "--", "deaf"]).spawn();
    session.wait_stdout("waiting", DEADLINE);
    session.signal(Signal::INT);
    session.wait_stdout("signal 2", DEADLINE);
    session.signal(Signal::INT);
    let output = session.finish(DEADLINE).expect(130);
    assert!(output.err().starts_with("error: interrupted: left the session"), "{output}");
    assert!(world.daemon.asked().contains(&"DELETE /v1/vms/dddddddddddd?force=true".to_owned()));
}

#[test]
fn nohup_is_respected() {
    let world = World::new();
    let script = format!("trap '' HUP; exec {} exec demo wait", env!("CARGO_BIN_EXE_banger"));
    let session = world.daemon.env.program("bash").args(["-c", &script]).spawn();
    session.wait_stdout("waiting", DEADLINE);
    session.signal(Signal::HUP);
    session.signal(Signal::TERM);
    let output = session.finish(DEADLINE).expect(143);
    assert!(!output.out().contains("signal 1\n"), "{output}");
}

#[test]
fn an_agent_of_another_api_is_not_talked_to() {
    let world = World::answering(|line, _| {
        line.ends_with("/guest").then(|| {
            Reply::Json(
                json!({ "id": "dddddddddddd", "name": "demo", "socket": "/nonexistent", "agent_api_version": 9 }),
            )
        })
    });
    let run = world.daemon.banger(["exec", "demo", "x"]).run().expect(125);
    assert!(run.err().contains("speaks API 9") && run.err().contains("banger vm restart demo"), "{run}");
}

#[test]
fn a_vm_whose_socket_is_gone_is_unreachable() {
    let world = World::answering(|line, _| {
        line.ends_with("/guest").then(|| {
            Reply::Json(
                json!({ "id": "dddddddddddd", "name": "demo", "socket": "/nonexistent", "agent_api_version": 1 }),
            )
        })
    });
    let run = world.daemon.banger(["exec", "demo", "x"]).run().expect(125);
    assert!(run.err().starts_with("error: cannot reach the agent in VM demo\n"), "{run}");
}
