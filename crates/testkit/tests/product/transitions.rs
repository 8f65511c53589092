//! VMs in transition: being created, being restarted, or found by a request a moment ago.

use crate::{SOON, delete, start, vms};
use banger_testkit::{TestEnv, wait_until};
use rustix::process::Signal;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// Makes the daemon halt at fail-points armed by the test.
fn with_points(env: &mut TestEnv) -> PathBuf {
    let points = env.home().join("points");
    std::fs::create_dir(&points).expect("a directory for points");
    env.set_variable("BANGER_FAILPOINTS", &points);
    points
}

/// Waits until the daemon halts at that point, and returns the file that halts it.
#[track_caller]
fn held(points: &Path, name: &str) -> PathBuf {
    let hit = points.join(format!("{name}.hit"));
    wait_until(SOON, name, || if hit.exists() { Ok(()) } else { Err("not there".into()) });
    hit
}

/// Sends the daemon a request and reads the head of the answer, by which time it has found the VM.
#[track_caller]
fn asked(env: &TestEnv, request: &str) -> UnixStream {
    let mut client = UnixStream::connect(env.layout().daemon_socket()).expect("a daemon");
    client.set_read_timeout(Some(SOON)).expect("a time");
    write!(client, "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("it listens");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("transfer-encoding: chunked"), "{head}");
    client
}

/// Reads the rest of the answer, which comes in pieces that are cut anywhere.
fn rest(answer: UnixStream) -> String {
    let (mut answer, mut text) = (BufReader::new(answer), Vec::new());
    loop {
        let mut size = String::new();
        answer.read_line(&mut size).expect("a piece");
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|error| panic!("{size:?}: {error}"));
        let mut piece = vec![0; size + "\r\n".len()];
        answer.read_exact(&mut piece).expect("all of the piece");
        text.extend_from_slice(&piece[..size]);
        if size == 0 {
            return String::from_utf8(text).expect("text");
        }
    }
}

fn one(name: &str, state: &str) -> [(String, String); 1] {
    [(name.to_owned(), state.to_owned())]
}

#[test]
fn what_is_between_the_halves_of_a_restart_is_not_taken_for_one_that_is_down() {
    let Some(mut env) = TestEnv::fake() else { return };
    let points = with_points(&mut env);
    start(&env, "up");
    std::fs::write(points.join("restart.down"), "").expect("an armed point");
    let restart = env.banger(["vm", "restart", "up"]).spawn();
    let hit = held(&points, "restart.down");
    assert_eq!(vms(&env), one("up", "starting"));
    let ps = env.banger(["ps", "--json"]).run().expect(0).json();
    assert_eq!(ps[0]["name"], "up", "{ps:#}");
    let nothing = env.banger(["vm", "prune", "-f", "--json"]).run().expect(0);
    assert_eq!(nothing.json(), serde_json::json!([]));
    // Nor by somebody who saw it stopped.
    let refused = env.banger(["vm", "delete", "up"]).run().expect(1);
    assert!(refused.err().contains("VM up is being started"), "{refused}");
    assert!(refused.err().contains("banger vm delete -f up"), "{refused}");
    std::fs::remove_file(hit).expect("the point that was hit");
    restart.finish(SOON).expect(0);
    assert_eq!(vms(&env), one("up", "running"));
    delete(&env, "up");
}

#[test]
fn who_deletes_what_is_being_deleted_needs_no_force() {
    let Some(mut env) = TestEnv::fake() else { return };
    let points = with_points(&mut env);
    start(&env, "up");
    std::fs::write(points.join("delete.begun"), "").expect("an armed point");
    let first = env.banger(["vm", "delete", "-f", "up"]).spawn();
    let hit = held(&points, "delete.begun");
    assert_eq!(vms(&env), one("up", "running"));
    let second = asked(&env, "DELETE /v1/vms/up");
    std::fs::remove_file(hit).expect("the point that was hit");
    first.finish(SOON).expect(0);
    let told = rest(second);
    assert!(told.lines().last().is_some_and(|line| line.contains("\"done\"")), "{told}");
    env.assert_nothing_left();
}

#[test]
fn what_is_being_made_is_nobodys_to_prune_and_its_console_is_waited_for() {
    let Some(mut env) = TestEnv::fake() else { return };
    let points = with_points(&mut env);
    for point in ["create.named", "start.planned"] {
        std::fs::write(points.join(point), "").expect("an armed point");
    }
    let run = env.banger(["vm", "run", "-d", "--name", "new"]).spawn();
    let hit = held(&points, "create.named");
    assert_eq!(vms(&env), one("new", "starting"));
    assert_eq!(env.banger(["vm", "prune", "-f", "--json"]).run().expect(0).json(), serde_json::json!([]));
    // Both are there before it is made: whoever wants something of it waits until then, and somebody waits for it to
    // run.
    let logs = asked(&env, "GET /v1/vms/new/logs?follow=true");
    let logs = std::thread::spawn(move || rest(logs));
    let deletion = asked(&env, "DELETE /v1/vms/new");
    std::fs::remove_file(hit).expect("the point that was hit");
    let hit = held(&points, "start.planned");
    let refused = rest(deletion);
    for words in ["VM new is being started", "banger vm delete -f new"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    std::fs::remove_file(hit).expect("the point that was hit");
    run.finish(SOON).expect(0);
    assert_eq!(vms(&env), one("new", "running"));
    assert!(!logs.is_finished(), "it runs");
    env.banger(["vm", "stop", "new"]).run().expect(0);
    let console = logs.join().expect("all of the console");
    assert!(console.contains("Linux version"), "{console}");
    delete(&env, "new");
}

#[test]
fn who_follows_a_console_is_told_of_its_machines_end_also_by_a_restart() {
    let Some(mut env) = TestEnv::fake() else { return };
    let points = with_points(&mut env);
    start(&env, "up");
    let logs = env.banger(["vm", "logs", "-f", "up"]).spawn();
    // It follows: what the guest says arrives.
    logs.wait_stdout("Linux version", SOON);
    std::fs::write(points.join("restart.down"), "").expect("an armed point");
    let restart = env.banger(["vm", "restart", "up"]).spawn();
    let hit = held(&points, "restart.down");
    logs.finish(SOON).expect(0);
    // Who comes between the two machines is told of the second one: what it has before that is the first one's.
    let mut next = env.banger(["vm", "logs", "-f", "up"]).spawn();
    next.wait_stdout("Linux version", SOON);
    std::fs::remove_file(hit).expect("the point that was hit");
    restart.finish(SOON).expect(0);
    wait_until(SOON, "what the second one says", || {
        let console = next.stdout_so_far();
        if console.matches("Linux version").count() == 2 { Ok(()) } else { Err(console) }
    });
    assert!(!next.has_ended(), "it runs");
    next.signal(Signal::TERM);
    next.finish(SOON).expect(143);
    delete(&env, "up");
}

#[test]
fn a_creation_that_is_interrupted_while_its_disk_is_written_leaves_nothing() {
    let Some(mut env) = TestEnv::fake() else { return };
    let points = with_points(&mut env);
    std::fs::write(points.join("create.furnished"), "").expect("an armed point");
    let create = env.banger(["vm", "create", "--no-start", "--name", "new"]).spawn();
    let hit = held(&points, "create.furnished");
    create.signal(Signal::INT);
    let out = create.finish(SOON).expect(130);
    assert!(out.err().contains("the VM was not created"), "{out}");
    std::fs::remove_file(hit).expect("the point that was hit");
    wait_until(SOON, "what was made to be gone", || {
        let left = vms(&env);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    env.assert_nothing_left();
}

#[test]
fn a_person_deletes_what_was_shown_to_be_down_only_while_it_is() {
    let Some(env) = TestEnv::fake() else { return };
    start(&env, "up");
    env.banger(["vm", "create", "--no-start", "--name", "down"]).run().expect(0);
    let mut terminal = env.banger(["vm", "delete", "up", "down"]).spawn_on_terminal(100, 30);
    terminal.wait_for("Delete up (running), down (created)", SOON);
    env.banger(["vm", "start", "down"]).patience(SOON).run().expect(0);
    terminal.type_in("y\n");
    let out = terminal.finish(SOON).expect(1);
    assert!(out.out().contains("VM down is running"), "{out}");
    assert_eq!(vms(&env), one("down", "running"));
    delete(&env, "down");
}

#[test]
fn a_name_that_looks_like_an_id_would_be_taken_for_one() {
    let Some(env) = TestEnv::fake() else { return };
    env.banger(["vm", "create", "--no-start", "--name", "web"]).run().expect(0);
    let id = env.vm("web")["id"].as_str().expect("an id").to_owned();
    let refused = env.banger(["vm", "create", "--no-start", "--name", &id]).run().expect(1);
    assert!(refused.err().contains(&format!("no VM can be called {id}")), "{refused}");
    // Anything else may look as it likes.
    for name in ["deadbeef", "0123456789abc", "0123456789ag"] {
        env.banger(["vm", "create", "--no-start", "--name", name]).run().expect(0);
        env.banger(["rm", name]).run().expect(0);
    }
    delete(&env, &id);
}
