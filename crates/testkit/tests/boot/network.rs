//! The network with real guests: what they reach, by which names, that it outlives whoever made it, and that it follows
//! a host that moves.

mod around;
mod matrix;
mod roaming;
mod spoof;
mod survival;

use crate::sh;
use around::{Around, INTERNET, NAME, SOON};
use banger_testkit::{NetNamespace, TestEnv, require, wait_until};

/// An environment whose host is the one of these namespaces; `None` where this machine has no such.
fn world() -> Option<(TestEnv, Around)> {
    if !require("netns") || !require("pasta") {
        return None;
    }
    let mut env = TestEnv::real()?;
    let around = Around::new();
    env.move_into(&around.host);
    Some((env, around))
}

/// The namespace of an environment's VMs.
#[track_caller]
fn inside(env: &TestEnv) -> NetNamespace {
    let processes = env.processes("bangerd-root");
    NetNamespace::of(processes.iter().find(|process| process.command.contains("hold")).expect("a holder").pid)
}

#[track_caller]
fn reaches(env: &TestEnv, vm: &str, url: &str) {
    assert_eq!(sh(env, vm, &format!("curl -sS --retry 3 --retry-all-errors --max-time 60 {url}")), "hello", "{url}");
}

/// What is sent there is denied, and that is on record.
#[track_caller]
fn is_denied(env: &TestEnv, vm: &str, to: &str, port: u16) {
    let line = format!("curl -s --connect-timeout 2 http://{to}:{port}/ && echo reached; true");
    assert_eq!(sh(env, vm, &line), "", "{to}:{port}");
    is_on_record(env, vm, to, port);
}

/// A denial has the name its address was resolved from beside it, also where people read it; without one it has none.
#[track_caller]
fn is_denied_as(env: &TestEnv, vm: &str, to: &str, port: u16, name: Option<&str>) {
    is_denied(env, vm, to, port);
    let egress = env.banger(["vm", "show", "--egress", vm, "--json"]).run().expect(0).json();
    let denials = egress["denials"].as_array().expect("denials");
    let denial = denials.iter().find(|denial| denial["to"] == to && denial["port"] == port);
    assert_eq!(denial.expect("it is on record")["name"].as_str(), name, "{egress:#}");
    let shown = env.banger(["vm", "show", "--egress", vm]).run().expect(0).out();
    let row = [to, name.unwrap_or("-"), "tcp", &port.to_string()].join(" ");
    let rows = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    assert!(rows.into_iter().any(|line| line.starts_with(&row)), "{row:?} in {shown}");
}

/// A denial is in the list that users see.
#[track_caller]
fn is_on_record(env: &TestEnv, vm: &str, to: &str, port: u16) {
    wait_until(SOON, &format!("a denial of {to}:{port}"), || {
        let egress = env.banger(["vm", "show", "--egress", vm, "--json"]).run().expect(0).json();
        let denials = egress["denials"].as_array().cloned().unwrap_or_default();
        let found = denials.iter().any(|denial| denial["to"] == to && denial["port"] == port);
        if found { Ok(()) } else { Err(format!("{egress:#}")) }
    });
}
