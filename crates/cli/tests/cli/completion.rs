//! The shell asks the program for candidates, and the program asks the daemon, if one runs.

use crate::fake::{Daemon, Reply, banger, vm};
use banger_testkit::{Output, TestEnv};
use serde_json::json;
use std::path::Path;

/// Returns bash's completions of `line`, with `banger` found in PATH.
fn complete(env: &TestEnv, line: &str) -> Output {
    let words: Vec<String> = line.split(' ').map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(banger completion bash); COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9; \
         _clap_complete_banger banger '{}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words.len() - 1,
        line.rsplit(' ').next().unwrap()
    );
    let bin = Path::new(env!("CARGO_BIN_EXE_banger")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    env.program("bash").args(["--norc", "-c", &script]).env("PATH", path).run().expect(0)
}

#[test]
fn live_names_are_completed() {
    let daemon = Daemon::answering(|line, _| {
        Some(Reply::Json(match line {
            "GET /v1/vms" => json!([vm("aaaaaaaaaaaa", "demo"), vm("bbbbbbbbbbbb", "dev"), vm("cccccccccccc", "web")]),
            "GET /v1/kernels?available=true" => json!([{
                "name": "debian-6.1", "distro": "debian", "arch": "x86_64", "kernel_version": "6.1", "pulled": false
            }]),
            _ => return None,
        }))
    });
    for (line, expected) in [
        ("banger vm stop de", "demo\ndev\n"),
        ("banger exec w", "web\n"),
        ("banger rm demo w", "web\n"),
        ("banger kernel pull d", "debian-6.1\n"),
        ("banger vm res", "restart\n"),
        ("banger run --over", "--overcommit\n"),
        ("banger cp de", "demo:\ndev:\n"),
        ("banger vm cp ./none we", "web:\n"),
        ("banger cp /proc/self/statu", "/proc/self/status\n"),
        // Paths in a guest are not completed.
        ("banger cp demo:/et", "\n"),
    ] {
        let completed = complete(&daemon.env, line);
        assert_eq!((completed.out().as_str(), completed.err().as_str()), (expected, ""), "{line}");
    }
}

#[test]
fn without_a_daemon_nothing_is_said_and_nothing_started() {
    let env = TestEnv::empty();
    let completed = complete(&env, "banger vm stop d");
    assert_eq!((completed.out().trim(), completed.err().as_str()), ("", ""));
    assert!(!env.layout().state.exists() && !env.layout().run.exists());
}

#[test]
fn every_shell_has_its_script() {
    let env = TestEnv::empty();
    for (shell, word) in [("bash", "complete "), ("zsh", "#compdef banger"), ("fish", "complete --keep-order")] {
        let script = banger(&env, ["completion", shell]).run().expect(0);
        assert!(script.out().contains(word) && script.out().contains("BANGER_COMPLETE"), "{script}");
    }
    banger(&env, ["completion", "tcsh"]).run().expect(2);
}
