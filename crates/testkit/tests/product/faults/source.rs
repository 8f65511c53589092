//! Whether the source has points where two steps meet, and the matrix rows where there are points.
//!
//! Read as text, so this knows a step by how it is written: whoever adds another way to change what outlives the daemon adds
//! it to [`STEPS`].

use super::{CAPABILITIES, rows};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Points that are one for each of several things.
const LOOPS: &[(&str, &[&str])] = &[
    ("create.prepared.{}", CAPABILITIES),
    ("start.contributed.{}", CAPABILITIES),
    ("start.followed.{}", CAPABILITIES),
    ("release.{}", CAPABILITIES),
    ("start.claimed.{}", &["state_dir", "run_dir", "shim"]),
    ("sweep.found.{}", STRAYS),
    ("sweep.ended.{}", STRAYS),
    ("sweep.removed.{}", STRAYS),
];
const STRAYS: &[&str] = &["states", "sockets"];

/// Where the steps of an operation follow each other.
const FILES: &[&str] = &[
    "capability/nat.rs",
    "capability/ports.rs",
    "daemon.rs",
    "network/holder.rs",
    "network/life/start.rs",
    "shim/claim.rs",
    "shim/client.rs",
    "shim/run.rs",
    "vm/create.rs",
    "vm/lease.rs",
    "vm/owner.rs",
    "vm/reconcile.rs",
    "vm/release.rs",
    "vm/set_network.rs",
    "vm/start.rs",
    "vm/stop.rs",
];

/// What changes a row, a file, a process or a card.
const STEPS: &[&str] = &[
    // Rows.
    ".insert_vm(",
    ".update_vm(",
    ".delete_vm(",
    ".insert_lease(",
    ".delete_lease(",
    ".claim(",
    "ports::claim(",
    ".unclaim(",
    ".save()",
    ".save_or_log()",
    "self.write(",
    // Files.
    "make_directory(",
    "remove_flat(",
    "remove_sockets(",
    "remove_unfinished(",
    "strays.remove(",
    "record::remove(",
    "record::write(",
    "record::write_volatile(",
    "Staged::new(",
    "record.publish()",
    "lock.publish()",
    "renew_moment(",
    "Door::open(",
    "socket::bind(",
    // Processes, and what they hold.
    "command.spawn(",
    "driver.launch(",
    "Memory::fresh(",
    "ShimRequest::",
    ".signal(",
    ".publish(*",
    ".unpublish(",
    ".put_down(",
    ".end_machine()",
    "revoke(",
    "end_shim(",
    "end_proven(",
    "end_silent(",
    // Cards, and who carries them.
    ".seat(",
    ".unseat(",
    ".attach(",
    ".detach(",
    "network.adopt(",
    "Helper::start(",
    "live.ensure(",
    "live.tell(",
    "live.place(",
    "write_all(b\"go",
    "record.write(",
    "recorded.write(",
    "holder::end(",
    // Several things'.
    "settle(&",
    "capability.prepare(",
    "capability.contribute(",
    "capability.after_start(",
    "capability.release(",
    ".reconcile()",
];
/// Steps of several, with a point after the last of them.
const WHOLES: &[&str] =
    &[" release(", ".down(", " agree(", "take_durable(", "holder::hold(", "close(&mut record", "live.uplink("];

/// A `vm set` that is refused in part and goes back to what was: nobody was told anything of it, and what is written down by
/// then is what the next daemon makes true.
const WAYS_BACK: &[&str] = &["undo", "change_ports"];

fn daemon() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/src")
}

/// The names of points in the source below `dir`, as far as they are written out.
fn written(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("the source").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            written(&entry.path(), into);
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for call in ["failpoint::hit(", "failpoint::hit_and_block("] {
            let calls = text.split(call).skip(1);
            into.extend(calls.map(|rest| rest.split('"').nth(1).expect("a name").to_owned()));
        }
    }
}

#[test]
fn every_point_in_the_source_has_a_row() {
    let mut points = BTreeSet::new();
    written(&daemon(), &mut points);
    written(&daemon().join("../../artifacts/src"), &mut points);
    assert!(points.len() > 80, "{points:?}");
    for (name, things) in LOOPS {
        assert!(points.remove(*name), "{name} is nowhere in the source");
        points.extend(things.iter().map(|thing| name.replace("{}", thing)));
    }
    let rows = rows();
    points.retain(|point| {
        !rows.iter().any(|row| row.0 == *point) && !crate::killed_images::POINTS.contains(&point.as_str())
    });
    assert!(points.is_empty(), "no row for {points:?}");
}

/// A step of a function's that nothing parts from the next one so far.
struct Open {
    line: usize,
    indent: usize,
}

/// The name of the function that begins in a line.
fn function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_declared = before.split_whitespace().all(|word| word == "async" || word.starts_with("pub"));
    is_declared.then(|| after.split(['(', '<']).next().unwrap_or_default())
}

/// Steps of one function that follow each other without a point between them. Branches of one `match` do not follow each
/// other, and nothing follows a `return`.
fn adjoining(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut open, mut is_way_back): (Option<Open>, bool) = (None, false);
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        let line = line.split("//").next().unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        if let Some(name) = function(line) {
            (open, is_way_back) = (None, WAYS_BACK.contains(&name));
            continue;
        }
        if line.contains("failpoint::hit")
            || line.contains("=>") && open.as_ref().is_some_and(|open| open.indent >= indent)
        {
            open = None;
        }
        let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
        let (is_step, is_whole) = (has(STEPS), has(WHOLES));
        if is_step || is_whole {
            found.extend(open.filter(|_| !is_way_back).map(|open| (open.line, number + 1)));
            open = is_step.then_some(Open { line: number + 1, indent });
        }
        if has(&["return", "break", "continue"]) {
            open = None;
        }
    }
    found
}

#[test]
fn two_steps_have_a_point_between_them() {
    for file in FILES {
        let text = std::fs::read_to_string(daemon().join(file)).expect(file);
        let found = adjoining(&text);
        assert!(found.is_empty(), "{file}: steps without a point between them, by their lines: {found:?}");
    }
}

#[test]
fn steps_without_a_point_are_seen() {
    let text = |middle: &str| {
        format!("async fn f() {{\n    store.claim(x).await?;\n{middle}    make_directory(&dir)?;\n    Ok(())\n}}\n")
    };
    assert_eq!(adjoining(&text("")), [(2, 3)]);
    assert_eq!(adjoining(&text("    // A word.\n")), [(2, 4)]);
    assert_eq!(adjoining(&text("    failpoint::hit(\"a\").await;\n")), []);
    assert_eq!(adjoining(&text("}\n\nfn g() {\n")), [], "they are of two functions");
    let branches = "fn f() {\n    match x {\n        A => store.claim(x),\n        B => store.unclaim(x),\n    }\n}\n";
    assert_eq!(adjoining(branches), []);
    let scrutinee = "fn f() {\n    match store.claim(x) {\n        A => store.unclaim(x),\n        B => {}\n    }\n}\n";
    assert_eq!(adjoining(scrutinee), [(2, 3)]);
}

#[test]
fn every_step_that_is_known_is_somewhere() {
    let source: String = FILES.iter().map(|file| std::fs::read_to_string(daemon().join(file)).expect(file)).collect();
    let unknown: Vec<_> = STEPS.iter().chain(WHOLES).filter(|step| !source.contains(**step)).collect();
    assert!(unknown.is_empty(), "nothing is written like this any more: {unknown:?}");
}
