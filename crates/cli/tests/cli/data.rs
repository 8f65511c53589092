//! Printed data: tables, facts, and JSON with stable names.

use crate::fake::{Daemon, Reply, vm};
use serde_json::{Value, json};

fn daemon() -> Daemon {
    Daemon::answering(|line, _| {
        let stopped = {
            let mut stopped = vm("0123456789ab", "web");
            stopped["state"] = "failed".into();
            stopped["reason"] = "the guest panicked: \u{1b}[31mred\nsecond line".into();
            stopped["accelerator"] = Value::Null;
            stopped
        };
        Some(Reply::Json(match line {
            "GET /v1/vms?running=true" => json!([vm("fedcba987654", "demo")]),
            "GET /v1/vms" => json!([vm("fedcba987654", "demo"), stopped]),
            "GET /v1/vms/demo" => vm("fedcba987654", "demo"),
            "GET /v1/vms/web" => stopped,
            "GET /v1/vms/demo/stats" => json!({
                "vmm_cpu_ms": 1234, "vmm_rss": 104_857_600, "disk_used": 4096,
                "guest": { "cpu_ms": 10, "memory_total": 100, "memory_available": 200, "disk_total": 1_048_576,
                           "disk_free": 0, "processes": 3, "sessions": 0 }
            }),
            "GET /v1/vms/demo/ports" => json!([
                { "protocol": "tcp", "address": "0.0.0.0", "port": 22, "pid": 9, "process": "sshd\u{7}",
                  "published": [], "listening": true },
                { "protocol": "udp", "address": "::", "port": 53, "pid": null, "process": null, "published": [], "listening": true },
                { "protocol": "tcp", "address": "", "port": 80, "pid": null, "process": null,
                  "published": ["127.0.0.1:8080"], "listening": false }
            ]),
            "GET /v1/images" => json!([image()]),
            "GET /v1/images/alpine%3A3.20" => image(),
            "GET /v1/image-catalogs" => json!([
                { "place": "https://corp.example/images.json", "images": [
                    { "name": "corp", "sources": ["https://corp.example/corp.tar.zst", "debian:12"], "download": 5_242_880,
                      "description": "what \u{202e}evil people have", "kernel": "generic-6.12", "id": "00112233445566aa" },
                    { "name": "later", "sources": [] }
                ]},
                { "place": "built-in", "images": [{ "name": "debian-bookworm", "sources": ["mmdebstrap bookworm"], "kernel": "debian-6.1" }] }
            ]),
            "GET /v1/kernels" => json!([kernel(true)]),
            "GET /v1/kernels?available=true" => json!([kernel(true), kernel(false)]),
            "GET /v1/kernels/debian-6.1?verify=true" => kernel(true),
            "GET /v1/kernel-catalogs" => json!([{ "place": "built-in", "kernels": 2 }]),
            "GET /v1/config" => json!([
                { "key": "default_image", "value": "debian-bookworm", "source": "default" },
                { "key": "vm_defaults.vcpu", "value": 4, "source": "file" },
                { "key": "vmm", "value": null, "source": "default" }
            ]),
            "GET /v1/daemon" => json!({
                "pid": 77, "version": "0.1.0", "api_version": 1, "socket": "/run/x.sock", "uptime_s": 5, "running_vms": 2
            }),
            _ => return None,
        }))
    })
}

fn image() -> Value {
    json!({
        "id": "00112233445566aa", "names": ["alpine:3.20"], "digest": "sha256:aa", "source": "mmdebstrap", "size": 5_242_880,
        "managed": true, "kernel": "debian-6.1", "os": "Alpine \u{202e}evil", "arch": "x86_64", "init": "/sbin/init",
        "created_at": "1990-01-01T00:00:00Z", "state": "ready", "problem": null, "hints": [], "used_by": ["demo", "web"]
    })
}

fn kernel(pulled: bool) -> Value {
    json!({
        "name": if pulled { "debian-6.1" } else { "generic-6.12" }, "distro": "debian", "arch": "x86_64",
        "kernel_version": "6.1.0", "pulled": pulled, "description": "a kernel", "size": if pulled { json!(1024) } else { Value::Null },
        "boot_modules": ["virtio", "virtio_blk"]
    })
}

/// Filters ages, which grow; everything else is exact.
fn filtered(text: &str) -> String {
    let days =
        text.split([' ', '(', '\n']).find(|word| word.ends_with('d') && word[..word.len() - 1].parse::<u32>().is_ok());
    days.map_or_else(|| text.to_owned(), |days| text.replace(days, "[AGE]"))
}

#[test]
fn tables_and_facts() {
    let daemon = daemon();
    for (name, args) in [
        ("ps", ["ps"].as_slice()),
        ("ps-all", &["ps", "-a"]),
        ("vm-list", &["vm", "ls"]),
        ("vm-show", &["vm", "show", "demo"]),
        ("vm-show-failed", &["vm", "show", "web"]),
        ("vm-stats", &["vm", "stats", "demo"]),
        ("vm-ports", &["vm", "ports", "demo"]),
        ("image-list", &["image", "list"]),
        ("image-available", &["image", "list", "--available"]),
        ("image-show", &["image", "show", "alpine:3.20"]),
        ("kernel-list", &["kernel", "list"]),
        ("kernel-available", &["kernel", "list", "--available"]),
        ("kernel-show", &["kernel", "show", "debian-6.1"]),
        ("config-show", &["config", "show"]),
        ("daemon-status", &["daemon", "status"]),
    ] {
        let run = daemon.banger(args).run().expect(0);
        assert!(run.err().is_empty(), "{run}");
        insta::assert_snapshot!(name, filtered(&run.out()));
    }
}

#[test]
fn a_monitor_that_is_not_known_is_not_shown() {
    let daemon = Daemon::answering(|line, _| {
        let mut open = vm("0123456789ab", "open");
        open["state"] = "created".into();
        for unknown in ["vmm", "accelerator", "vmm_reason", "vmm_pid", "shim_pid"] {
            open[unknown] = Value::Null;
        }
        Some(Reply::Json(match line {
            "GET /v1/vms" => json!([open]),
            "GET /v1/vms/open" => open,
            _ => return None,
        }))
    });
    let list = daemon.banger(["vm", "list"]).run().expect(0).out();
    let row: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[4], "-", "{list}");
    let shown = daemon.banger(["vm", "show", "open"]).run().expect(0).out();
    assert!(!shown.lines().any(|line| line.starts_with("vmm ")), "{shown}");
    assert_eq!(daemon.banger(["vm", "show", "open", "--json"]).run().expect(0).json()["vmm"], Value::Null);
}

#[test]
fn what_is_wrong_with_an_image_is_said_beside_the_list() {
    let mut bad = image();
    (bad["state"], bad["problem"]) =
        ("damaged".into(), "its manifest cannot be used: \u{1b}[31mit is malformed".into());
    bad["hints"] = json!(["`banger image delete 00112233445566aa`", "then pull it again"]);
    let shown = json!([bad, image()]);
    let daemon = Daemon::answering(move |line, _| {
        Some(Reply::Json(match line {
            "GET /v1/images" => shown.clone(),
            "GET /v1/images/alpine%3A3.20" => shown[0].clone(),
            _ => return None,
        }))
    });
    let list = daemon.banger(["image", "list"]).run().expect(0);
    assert!(list.out().contains("alpine:3.20  damaged ") && list.out().contains("alpine:3.20  ready "), "{list}");
    assert_eq!(
        list.err(),
        "warning: image 00112233445566aa: its manifest cannot be used: \\u{1b}[31mit is malformed; `banger image delete \
         00112233445566aa`; then pull it again\n"
    );
    assert_eq!(daemon.banger(["image", "list", "--json"]).run().expect(0).err(), "");
    let show = daemon.banger(["image", "show", "alpine:3.20"]).run().expect(0).out();
    for fact in ["state:   damaged\n", "problem: its manifest", "hint:    `banger image delete"] {
        assert!(show.contains(fact), "{fact:?}: {show}");
    }
}

#[test]
fn json_is_what_the_daemon_says() {
    let daemon = daemon();
    let show = daemon.banger(["--json", "vm", "show", "demo"]).run().expect(0).json();
    assert_eq!(show, vm("fedcba987654", "demo"));
    assert_eq!(daemon.banger(["ps", "--json"]).run().expect(0).json(), json!([vm("fedcba987654", "demo")]));
    assert_eq!(daemon.banger(["image", "list", "--json"]).run().expect(0).json(), json!([image()]));
    for args in [
        ["kernel", "show", "debian-6.1"].as_slice(),
        &["config", "show"],
        &["daemon", "status"],
        &["version"],
        &["vm", "stats", "demo"],
        &["vm", "ports", "demo"],
    ] {
        let mut json = daemon.banger(args).args(["--json"]).run().expect(0).json();
        if args == ["version"] {
            json["version"] = "[VERSION]".into();
            json["daemon"]["version"] = "[VERSION]".into();
        }
        insta::assert_json_snapshot!(format!("json-{}", args.join("-")), json);
    }
}

#[test]
fn json_moves_no_cursor() {
    // A name that a process of the guest may have.
    let ports = json!([{
        "protocol": "tcp", "address": "::", "port": 22, "pid": 9, "process": "sshd\u{9b}2J\u{202e}", "published": [],
        "listening": true
    }]);
    let said = ports.clone();
    let daemon = Daemon::answering(move |line, _| line.ends_with("/ports").then(|| Reply::Json(said.clone())));
    let run = daemon.banger(["vm", "ports", "demo", "--json"]).run().expect(0);
    assert!(run.out().contains("\"sshd\\u009b2J\\u202e\"") && !run.out().contains(['\u{9b}', '\u{202e}']), "{run}");
    assert_eq!(run.json(), ports, "it is the same value");
    let mad = Daemon::answering(|line, _| {
        let failure = json!({ "code": "guest", "message": "mad \u{9b}2J", "causes": ["\u{2067}"] });
        (line != "GET /v1/version").then_some(Reply::Failure(502, failure))
    });
    let shown = mad.banger(["vm", "show", "demo", "--json"]).run().expect(1).out();
    let session = mad.banger(["exec", "demo", "--json", "--", "true"]).run().expect(125).err();
    for failure in [shown, session] {
        assert!(failure.contains("mad \\u009b2J") && failure.contains("\\u2067"), "{failure}");
        assert!(!failure.contains(['\u{9b}', '\u{2067}']), "{failure}");
    }
}

#[test]
fn scripts_get_ids() {
    let daemon = daemon();
    for args in [["ps", "-aq"], ["ps", "-qa"]] {
        assert_eq!(daemon.banger(args).run().expect(0).out(), "fedcba987654\n0123456789ab\n");
    }
    assert_eq!(daemon.banger(["ps", "--quiet"]).run().expect(0).out(), "fedcba987654\n");
}

#[test]
fn nothing_is_an_empty_list() {
    let daemon = Daemon::answering(|line, _| (line == "GET /v1/vms?running=true").then(|| Reply::Json(json!([]))));
    assert_eq!(daemon.banger(["ps", "--json"]).run().expect(0).json(), json!([]));
    assert_eq!(daemon.banger(["ps", "-q"]).run().expect(0).out(), "");
    assert!(daemon.banger(["ps"]).run().expect(0).out().starts_with("ID "));
}

#[test]
fn a_refusal_is_shown_whole() {
    let daemon = Daemon::answering(|line, _| {
        (line == "GET /v1/vms/demo").then(|| {
            Reply::Failure(
                502,
                json!({
                    "code": "guest", "message": "the guest went mad", "causes": ["Kernel panic \u{1b}[5m\nnot syncing"],
                    "hints": ["banger vm logs demo"], "operation": "0123abcd"
                }),
            )
        })
    });
    insta::assert_snapshot!(daemon.banger(["vm", "show", "demo"]).run().expect(1).err(), @r"
    error: the guest went mad
      caused by: Kernel panic \u{1b}[5m
        not syncing
    hint: banger vm logs demo
      operation: 0123abcd
    ");
    let json = daemon.banger(["vm", "show", "demo", "--json"]).run().expect(1).json();
    assert_eq!((&json["code"], &json["operation"]), (&json!("guest"), &json!("0123abcd")));
}

#[test]
fn a_console_is_harmless_unless_raw() {
    let bytes = b"\x1b[32mok\x1b[0m\r\n\x1b]0;title\x07\xff";
    let daemon = Daemon::answering(move |line, _| line.contains("/logs").then(|| Reply::Bytes(bytes.to_vec())));
    assert_eq!(daemon.banger(["logs", "demo"]).run().expect(0).out(), "ok\n\\u{1b}]0;title\\u{7}\\xff");
    assert_eq!(daemon.banger(["logs", "demo", "--raw", "--tail", "3"]).run().expect(0).stdout, bytes);
    assert_eq!(daemon.asked(), ["GET /v1/vms/demo/logs?follow=false", "GET /v1/vms/demo/logs?follow=false&tail=3"]);
}

#[test]
fn a_reader_that_is_gone_is_no_error_message() {
    let daemon = Daemon::answering(|line, _| line.contains("/logs").then(|| Reply::Bytes(vec![b'x'; 4 << 20])));
    let script = format!("{} logs demo | head -c 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_banger"));
    let run = daemon.env.program("bash").args(["-c", &script]).run().expect(141);
    assert_eq!((run.out(), run.err()), ("x".into(), String::new()));
}
