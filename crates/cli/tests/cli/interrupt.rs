//! Ctrl-C, and worse, at every phase of `vm run`.

use crate::{
    fake::{DEADLINE, Daemon, Reply},
    session::World,
};
use rustix::process::Signal;
use serde_json::json;

/// A daemon that never finishes the VM.
fn busy() -> Daemon {
    Daemon::answering(|line, _| {
        (line == "POST /v1/vms" || line == "POST /v1/images/pull").then(|| {
            Reply::Held(vec![
                json!({ "event": "started", "operation": "00000001" }),
                json!({ "event": "phase", "text": "pulling image debian-bookworm" }),
                json!({ "event": "advance", "done": 1_048_576, "total": 4_194_304 }),
            ])
        })
    })
}

#[test]
fn while_it_is_made_the_daemon_takes_it_back() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let daemon = busy();
        let session = daemon.banger(["run", "--rm", "--", "true"]).spawn();
        // A phase is shown only after some time.
        session.wait_stderr("pulling image debian-bookworm\n", DEADLINE);
        session.signal(signal);
        let output = session.finish(DEADLINE).expect(code);
        assert!(
            output
                .err()
                .ends_with("error: interrupted: the VM was not created; the daemon removes what it had made so far\n"),
            "{output}"
        );
        daemon.wait_asked("closed POST /v1/vms");
        assert!(!daemon.asked().iter().any(|line| line.starts_with("DELETE")), "nothing to delete yet");
    }
}

#[test]
fn programs_read_of_an_interrupt_where_they_read_of_any_failure() {
    let daemon = busy();
    let session = daemon.banger(["image", "pull", "debian-bookworm", "--json"]).spawn();
    session.wait_stderr("\"advance\"", DEADLINE);
    session.signal(Signal::INT);
    let failure = session.finish(DEADLINE).expect(130).json();
    assert_eq!(failure["code"], "timeout");
    assert!(failure["message"].as_str().unwrap().starts_with("interrupted: "), "{failure}");

    let world = World::new();
    let session = world.daemon.banger(["run", "--rm", "--json", "--", "deaf"]).spawn();
    session.wait_stdout("waiting", DEADLINE);
    session.signal(Signal::INT);
    session.wait_stdout("signal 2", DEADLINE);
    session.signal(Signal::INT);
    let output = session.finish(DEADLINE).expect(130);
    let failure: serde_json::Value = serde_json::from_str(&output.err()).unwrap();
    assert!(failure["message"].as_str().unwrap().starts_with("interrupted: left the session"), "{failure}");
    assert!(!output.out().contains("interrupted"), "stdout is the command's: {output}");
}

#[test]
fn killed_outright_the_lease_still_ends() {
    let daemon = busy();
    let session = daemon.banger(["run", "--rm", "--", "true"]).spawn();
    daemon.wait_asked("POST /v1/vms");
    session.signal(Signal::KILL);
    session.finish(DEADLINE).expect(137);
    daemon.wait_asked("closed POST /v1/vms");

    let world = World::new();
    let session = world.daemon.banger(["run", "--rm", "--", "deaf"]).spawn();
    session.wait_stdout("waiting", DEADLINE);
    session.signal(Signal::KILL);
    session.finish(DEADLINE).expect(137);
    world.daemon.wait_asked("closed POST /v1/vms");
}

#[test]
fn a_pull_is_taken_back_too() {
    let daemon = busy();
    let session = daemon.banger(["image", "pull", "debian-bookworm"]).spawn();
    daemon.wait_asked("POST /v1/images/pull");
    session.wait_stderr("pulling", DEADLINE);
    session.signal(Signal::INT);
    session.finish(DEADLINE).expect(130);
    daemon.wait_asked("closed POST /v1/images/pull");
}

#[test]
fn while_it_is_deleted_the_daemon_goes_on() {
    let world = World::answering(|line, _| {
        line.starts_with("DELETE").then(|| Reply::Held(vec![json!({ "event": "started", "operation": "00000001" })]))
    });
    let session = world.daemon.banger(["run", "--rm", "--", "exit", "0"]).spawn();
    world.daemon.wait_asked("DELETE /v1/vms/dddddddddddd?force=true");
    session.signal(Signal::INT);
    let output = session.finish(DEADLINE).expect(130);
    assert_eq!(output.err(), "error: interrupted: the daemon is still deleting VM demo\n");
    world.daemon.wait_asked("closed POST /v1/vms");
}

#[test]
fn while_the_agent_is_dialled_the_throw_away_vm_goes() {
    let world = World::answering(|line, _| line.ends_with("/guest").then(|| Reply::Held(Vec::new())));
    let session = world.daemon.banger(["run", "--rm", "--", "true"]).spawn();
    world.daemon.wait_asked("GET /v1/vms/dddddddddddd/guest");
    session.signal(Signal::INT);
    session.finish(DEADLINE).expect(130);
    assert!(world.daemon.asked().contains(&"DELETE /v1/vms/dddddddddddd?force=true".to_owned()));
}

#[test]
fn on_a_terminal_a_bar_is_shown_and_cleared() {
    let daemon = busy();
    let mut terminal = daemon.banger(["run", "--rm", "--", "true"]).spawn_on_terminal(100, 24);
    terminal.wait_for("pulling image debian-bookworm", DEADLINE);
    terminal.wait_for("1.00 MiB/4.00 MiB", DEADLINE);
    terminal.type_in("\x03");
    terminal.wait_for("interrupted: the VM was not created", DEADLINE);
    terminal.finish(DEADLINE).expect(130);
}
