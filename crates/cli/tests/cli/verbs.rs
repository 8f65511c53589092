//! Commands that change something: their requests, reports and failures.

use crate::fake::{DEADLINE, Daemon, Reply, done, vm};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A daemon with the VMs `a` and `b`; starting `b` fails.
fn daemon() -> Daemon {
    Daemon::answering(|line, body| {
        Some(match line {
            "GET /v1/vms/a" | "GET /v1/vms/aaaa" => Reply::Json(vm("aaaaaaaaaaaa", "a")),
            "GET /v1/vms/b" => Reply::Json(vm("bbbbbbbbbbbb", "b")),
            "POST /v1/vms/bbbbbbbbbbbb/start" => Reply::Events(vec![
                json!({ "event": "started", "operation": "00000001" }),
                json!({ "event": "failed", "failure": { "code": "conflict", "message": "b runs already" } }),
            ]),
            "POST /v1/vms/aaaaaaaaaaaa/stop" => {
                assert_eq!(body, &json!({ "grace_ms": 1500 }));
                Reply::Events(vec![done(&vm("aaaaaaaaaaaa", "a"))])
            }
            "POST /v1/vms/aaaaaaaaaaaa/kill" => {
                assert_eq!(body, &json!({ "signal": "USR1" }));
                Reply::Events(vec![done(&vm("aaaaaaaaaaaa", "a"))])
            }
            "DELETE /v1/vms/aaaaaaaaaaaa" => {
                let failure = json!({ "code": "conflict", "message": "a runs", "hints": ["banger vm rm -f a"] });
                Reply::Events(vec![json!({ "event": "failed", "failure": failure })])
            }
            line if line.starts_with("DELETE ") => Reply::Events(vec![done(&Value::Null)]),
            line if line.ends_with("/start") || line.ends_with("/restart") => {
                Reply::Events(vec![done(&vm("aaaaaaaaaaaa", "a"))])
            }
            _ => return None,
        })
    })
}

#[test]
fn every_vm_is_resolved_before_one_is_touched() {
    let daemon = daemon();
    let run = daemon.banger(["stop", "a", "gone"]).run().expect(1);
    assert_eq!(run.err(), "error: there is no gone\nhint: banger ps -a\n");
    let two = daemon.banger(["stop", "gone", "a", "lost"]).run().expect(1);
    assert!(two.err().contains("2 of 3 VMs") && two.err().contains("there is no lost"), "{two}");
    assert!(daemon.asked().iter().all(|line| line.starts_with("GET ")), "{:?}", daemon.asked());
}

#[test]
fn each_is_reported_and_one_failure_fails() {
    let daemon = daemon();
    let run = daemon.banger(["vm", "start", "a", "b"]).run().expect(1);
    assert_eq!((run.out(), run.err()), ("a\n".into(), "error: b runs already\n".into()));
    let json = daemon.banger(["vm", "start", "a", "b", "--json"]).run().expect(1).json();
    assert_eq!(
        (&json[0]["name"], &json[0]["vm"]["state"], &json[0]["failure"]),
        (&json!("a"), &json!("running"), &Value::Null)
    );
    assert_eq!((&json[1]["vm"], &json[1]["failure"]["code"]), (&Value::Null, &json!("conflict")));
}

#[test]
fn what_is_said_of_one_of_several_says_of_which() {
    let daemon = Daemon::answering(|line, _| {
        let told = |id: &str, name: &str, words: &str| {
            Reply::Events(vec![
                json!({ "event": "phase", "text": "writing the guest's data to its disk" }),
                json!({ "event": "notice", "text": words }),
                done(&vm(id, name)),
            ])
        };
        Some(match line {
            "GET /v1/vms/a" => Reply::Json(vm("aaaaaaaaaaaa", "a")),
            "GET /v1/vms/b" => Reply::Json(vm("bbbbbbbbbbbb", "b")),
            "POST /v1/vms/aaaaaaaaaaaa/stop" => told("aaaaaaaaaaaa", "a", "it did not power off within 2 s"),
            "POST /v1/vms/bbbbbbbbbbbb/stop" => told("bbbbbbbbbbbb", "b", "it cannot be asked \u{1b}[2J"),
            _ => return None,
        })
    });
    let lines = |args: &[&str]| {
        let run = daemon.banger(args).run().expect(0);
        let mut lines: Vec<String> = run.err().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let both = ["a: it did not power off within 2 s", "b: it cannot be asked \\u{1b}[2J"];
    assert_eq!(lines(&["stop", "a", "b"]), both);
    let events = lines(&["stop", "--json", "a", "b"]);
    let events = events.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told =
        events.filter(|event| event["event"] == "notice").map(|event| (event["vm"].clone(), event["text"].clone()));
    let told: Vec<(Value, Value)> = told.collect();
    assert_eq!(
        told,
        [(json!("b"), json!("it cannot be asked \u{1b}[2J")), (json!("a"), json!("it did not power off within 2 s"))]
    );
    assert_eq!(lines(&["stop", "a"]), ["it did not power off within 2 s"]);
    assert_eq!(lines(&["--quiet", "stop", "a", "b"]), [""; 0]);
}

#[test]
fn one_vm_named_twice_is_one() {
    let daemon = daemon();
    assert_eq!(daemon.banger(["vm", "restart", "a", "aaaa"]).run().expect(0).out(), "a\n");
}

#[test]
fn those_that_are_done_are_reported_when_an_interrupt_ends_the_wait_for_another() {
    for json in [false, true] {
        let daemon = Daemon::answering(|line, _| {
            Some(match line {
                "GET /v1/vms/a" => Reply::Json(vm("aaaaaaaaaaaa", "a")),
                "GET /v1/vms/b" => Reply::Json(vm("bbbbbbbbbbbb", "b")),
                // All events in one chunk: the first one shown means that the second was read.
                "POST /v1/vms/aaaaaaaaaaaa/stop" => Reply::Events(vec![
                    json!({ "event": "notice", "text": "it is down" }),
                    done(&vm("aaaaaaaaaaaa", "a")),
                ]),
                "POST /v1/vms/bbbbbbbbbbbb/stop" => Reply::Held(vec![json!({ "event": "phase", "text": "stopping" })]),
                _ => return None,
            })
        });
        let session = daemon.banger(["stop", "a", "b"].iter().chain(json.then_some(&"--json"))).spawn();
        session.wait_stderr("it is down", DEADLINE);
        daemon.wait_asked("POST /v1/vms/bbbbbbbbbbbb/stop");
        session.signal(Signal::INT);
        let run = session.finish(DEADLINE).expect(130);
        if json {
            let reports = run.json();
            assert_eq!((&reports[0]["name"], &reports[0]["failure"]), (&json!("a"), &Value::Null), "{run}");
            assert_eq!((&reports[1]["vm"], &reports[1]["failure"]["code"]), (&Value::Null, &json!("timeout")), "{run}");
        } else {
            assert_eq!(run.out(), "a\n", "{run}");
            assert!(run.err().contains("error: interrupted: the VM may still be on its way down"), "{run}");
        }
    }
}

#[test]
fn what_was_deleted_is_reported_when_an_interrupt_ends_the_rest() {
    let daemon = Daemon::answering(|line, _| {
        Some(match line {
            line if line.starts_with("GET /v1/images/") => Reply::Json(json!({})),
            "DELETE /v1/images/one" => Reply::Events(vec![done(&Value::Null)]),
            "DELETE /v1/images/two" => Reply::Held(Vec::new()),
            _ => return None,
        })
    });
    let session = daemon.banger(["image", "delete", "--json", "one", "two", "three"]).spawn();
    daemon.wait_asked("DELETE /v1/images/two");
    session.signal(Signal::INT);
    let run = session.finish(DEADLINE).expect(130);
    let reports = run.json();
    let deleted: Vec<_> = (0..3).map(|at| (&reports[at]["deleted"], &reports[at]["failure"]["code"])).collect();
    let (yes, no) = ((&json!(true), &Value::Null), (&json!(false), &json!("timeout")));
    assert_eq!(deleted, [yes, no, no], "{run}");
    assert!(!daemon.asked().contains(&"DELETE /v1/images/three".to_owned()), "{:?}", daemon.asked());
}

#[test]
fn a_full_host_is_overruled_by_the_verbs_that_bring_a_vm_up() {
    let daemon = Daemon::answering(|line, body| {
        Some(match line {
            "GET /v1/vms/a" => Reply::Json(vm("aaaaaaaaaaaa", "a")),
            line if line.starts_with("POST /v1/vms/aaaaaaaaaaaa/") || line.starts_with("PATCH ") => {
                assert_eq!(body["overcommit"], true, "{line}: {body}");
                Reply::Events(vec![done(&vm("aaaaaaaaaaaa", "a"))])
            }
            _ => return None,
        })
    });
    for verb in ["start", "restart", "set"] {
        daemon.banger(["vm", verb, "--overcommit", "a"]).run().expect(0);
    }
}

#[test]
fn flags_reach_the_daemon() {
    let daemon = daemon();
    daemon.banger(["stop", "a", "--timeout", "1500ms"]).run().expect(0);
    daemon.banger(["vm", "kill", "-s", "sigusr1", "a"]).run().expect(0);
}

#[test]
fn without_a_terminal_a_running_vm_needs_force() {
    let daemon = daemon();
    let run = daemon.banger(["rm", "a"]).run().expect(1);
    assert_eq!(run.err(), "error: a runs\nhint: banger vm rm -f a\n");
    assert_eq!(daemon.banger(["rm", "-f", "a"]).run().expect(0).out(), "a\n");
    assert_eq!(daemon.asked().last().unwrap(), "DELETE /v1/vms/aaaaaaaaaaaa?force=true");
}

#[test]
fn at_a_terminal_delete_asks() {
    let daemon = daemon();
    for (answer, code, deleted) in [("n\r", 1, false), ("\r", 1, false), ("yes\r", 0, true)] {
        let mut terminal = daemon.banger(["rm", "a"]).spawn_on_terminal(80, 24);
        terminal.wait_for("Delete a (running) and all data on it for good? [y/N]", crate::fake::DEADLINE);
        terminal.type_in(answer);
        terminal.finish(crate::fake::DEADLINE).expect(code);
        let asked = daemon.asked().contains(&"DELETE /v1/vms/aaaaaaaaaaaa?force=true".to_owned());
        assert_eq!(asked, deleted, "{answer:?}");
    }
}

#[test]
fn create_says_the_name_and_shows_notices() {
    let daemon = Daemon::answering(|line, body| {
        (line == "POST /v1/vms").then(|| {
            assert_eq!(
                (&body["name"], &body["start"], &body["env"], &body["wait"], &body["memory"]),
                (
                    &json!("x"),
                    &json!("no"),
                    &json!({ "A": "1", "B": "from here" }),
                    &json!("boot"),
                    &json!(268_435_456)
                )
            );
            Reply::Events(vec![
                json!({ "event": "started", "operation": "00000001" }),
                json!({ "event": "phase", "text": "too quick to show" }),
                json!({ "event": "advance", "done": 1, "total": null }),
                json!({ "event": "a kind of the future", "x": 1 }),
                json!({ "event": "notice", "text": "2 vcpu · 2048 MiB · 8 GiB disk · qemu/tcg \u{7}" }),
                done(&vm("aaaaaaaaaaaa", "x")),
            ])
        })
    });
    let args = [
        "vm",
        "create",
        "--name",
        "x",
        "--no-start",
        "-e",
        "A=1",
        "-e",
        "B",
        "-e",
        "GONE",
        "--wait",
        "boot",
        "--memory",
        "256",
    ];
    let run = daemon.banger(args).env("B", "from here").run().expect(0);
    assert_eq!((run.out(), run.err()), ("x\n".into(), "2 vcpu · 2048 MiB · 8 GiB disk · qemu/tcg \\u{7}\n".into()));
    assert_eq!(daemon.banger(args).args(["--quiet"]).env("B", "from here").run().expect(0).err(), "");
}

#[test]
fn images_and_kernels_come_and_go() {
    let image = || {
        json!({
            "id": "00112233445566aa", "names": ["debian-bookworm"], "digest": "sha256:aa", "source": "x", "size": 1,
            "managed": true, "created_at": "1990-01-01T00:00:00Z"
        })
    };
    let daemon = Daemon::answering(move |line, body| {
        Some(match line {
            "POST /v1/images/pull" => {
                assert_eq!(body, &json!({ "image": "debian-bookworm" }));
                Reply::Events(vec![done(&image())])
            }
            "GET /v1/images/a" | "GET /v1/images/b" => Reply::Json(image()),
            "DELETE /v1/images/a" => {
                Reply::Events(vec![json!({ "event": "notice", "text": "image 0 stays as c" }), done(&Value::Null)])
            }
            "DELETE /v1/images/b" => Reply::Events(vec![
                json!({ "event": "failed", "failure": { "code": "conflict", "message": "b is used by demo" } }),
            ]),
            "GET /v1/kernels/nope?here=true" => {
                Reply::Failure(404, json!({ "code": "not_found", "message": "there is no kernel nope on this host" }))
            }
            "GET /v1/kernels/k-6.1?here=true" => Reply::Json(json!({
                "name": "k-6.1", "distro": "x", "arch": "x86_64", "kernel_version": "6.1", "pulled": true
            })),
            "DELETE /v1/kernels/k-6.1?force=true" => Reply::Events(vec![
                json!({ "event": "phase", "text": "waiting for somebody else's work on kernel k-6.1" }),
                done(&Value::Null),
            ]),
            _ => return None,
        })
    });
    assert_eq!(daemon.banger(["image", "pull", "debian-bookworm"]).run().expect(0).out(), "debian-bookworm\n");
    let run = daemon.banger(["image", "rm", "a", "b"]).run().expect(1);
    assert_eq!((run.out(), run.err()), ("a\n".into(), "image 0 stays as c\nerror: b is used by demo\n".into()));
    let missing = daemon.banger(["kernel", "rm", "-f", "nope"]).run().expect(1);
    assert_eq!(missing.err(), "error: there is no kernel nope on this host\n");
    // A phase is shown only if it lasts.
    assert_eq!(daemon.banger(["kernel", "rm", "-f", "k-6.1"]).run().expect(0).out(), "k-6.1\n");
}

#[test]
fn a_daemon_that_dies_is_named() {
    let daemon = Daemon::answering(|line, _| {
        (line == "POST /v1/vms").then(|| Reply::Broken(vec![json!({ "event": "started", "operation": "00000001" })]))
    });
    let run = daemon.banger(["vm", "create"]).run().expect(1);
    assert!(run.err().starts_with("error: the daemon went away before the operation ended\n"), "{run}");
    assert!(run.err().contains("bangerd.log"), "{run}");
}
