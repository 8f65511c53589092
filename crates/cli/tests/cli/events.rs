//! Events for programs that watch an operation: printed with `--json`, suppressed with `--quiet`.

use crate::{
    fake::{Daemon, Reply, done, vm},
    session::World,
};
use serde_json::{Value, json};

/// Events before the end of an operation; their texts are untrusted.
fn told(result: &Value) -> Vec<Value> {
    vec![
        json!({ "event": "started", "operation": "00000001" }),
        json!({ "event": "phase", "text": "a step" }),
        json!({ "event": "advance", "done": 1, "total": 2 }),
        json!({ "event": "layer", "layer": "a", "state": "done", "done": 2, "total": 2 }),
        json!({ "event": "notice", "text": "a word \u{9b}2J" }),
        json!({ "event": "of-tomorrow" }),
        done(result),
    ]
}

fn daemon() -> Daemon {
    Daemon::answering(|line, _| {
        let image = json!({
            "id": "00112233445566aa", "names": ["app"], "digest": "sha256:aa", "source": "mmdebstrap", "size": 1,
            "managed": true, "kernel": null, "os": null, "created_at": "1990-01-01T00:00:00Z", "state": "ready",
            "problem": null, "hints": [], "used_by": []
        });
        let kernel = json!({
            "name": "debian-6.1", "distro": "debian", "arch": "x86_64", "kernel_version": "6.1.0", "pulled": true,
            "description": "", "size": null, "boot_modules": []
        });
        let bundle = json!({ "path": "/b", "size": 1, "sha256": "00", "entry": {} });
        Some(match line {
            "GET /v1/vms/a" => Reply::Json(vm("aaaaaaaaaaaa", "a")),
            "GET /v1/images/app" => Reply::Json(image),
            "POST /v1/images/app/bundle" => Reply::Events(told(&bundle)),
            "POST /v1/kernels/pull" => Reply::Events(told(&kernel)),
            line if line.starts_with("DELETE ") => Reply::Events(told(&Value::Null)),
            line if line.starts_with("POST /v1/images/") => Reply::Events(told(&image)),
            line if line.starts_with("POST /v1/vms") || line.starts_with("PATCH ") => {
                Reply::Events(told(&vm("aaaaaaaaaaaa", "a")))
            }
            _ => return None,
        })
    })
}

const COMMANDS: [&[&str]; 11] = [
    &["vm", "create", "--image", "app"],
    &["vm", "run", "-d"],
    &["vm", "start", "a"],
    &["vm", "stop", "a"],
    &["vm", "delete", "-f", "a"],
    &["vm", "publish", "a", "-p", "0:80"],
    &["image", "pull", "app"],
    &["image", "promote", "app"],
    &["image", "bundle", "app", "-o", "b"],
    &["image", "delete", "app"],
    &["kernel", "pull", "debian-6.1"],
];

#[test]
fn every_command_that_takes_its_time_passes_its_events_on() {
    let daemon = daemon();
    for command in COMMANDS {
        let run = daemon.banger(command).args(["--json"]).run().expect(0);
        let events: Vec<Value> = run.err().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let mut all = told(&Value::Null);
        // The final event is on stdout.
        all.pop();
        assert_eq!(events, all, "{command:?}");
        assert!(run.err().contains("a word \\u009b2J"), "{run}");
        assert!(run.json().is_object() || run.json().is_array(), "{run}");
    }
}

#[test]
fn quiet_is_quiet_for_programs_too() {
    let daemon = daemon();
    for command in COMMANDS {
        for json in [&["--json"][..], &[]] {
            let run = daemon.banger(command).args(json).args(["--quiet"]).run().expect(0);
            assert_eq!(run.err(), "", "{command:?} {json:?}");
            assert!(!run.out().is_empty(), "{command:?} {json:?}");
        }
    }
}

#[test]
fn what_a_person_reads_are_no_events() {
    let daemon = daemon();
    for command in COMMANDS {
        let run = daemon.banger(command).run().expect(0);
        assert!(run.err().contains("a word \\u{9b}2J\n") && !run.err().contains("\"event\""), "{run}");
    }
}

#[test]
fn a_guest_commands_stderr_has_no_events_in_it() {
    let world = World::answering(|line, body| match line {
        "POST /v1/vms" if body["start"] == "leased" => {
            let mut told = told(&Value::Null);
            told.pop();
            told.push(json!({ "event": "ready", "result": vm("dddddddddddd", "demo") }));
            Some(Reply::Held(told))
        }
        line if line.starts_with("DELETE ") => Some(Reply::Events(told(&Value::Null))),
        _ => None,
    });
    let run = world.daemon.banger(["run", "--rm", "--json", "--", "both"]).run().expect(0);
    assert!(run.err().contains("err ") && !run.err().contains("\"event\""), "{run}");
}
