//! Checks that the source has fail-points between steps, and the matrix rows for all fail-points.
//!
//! The source is read as text, so a step is recognized by its spelling: whoever adds another way to change something
//! that outlives the daemon adds it to [`STEPS`], and whoever puts steps into another file adds that to [`FILES`]. A
//! step is defined in `banger_artifacts::failpoint`; steps of two functions that follow each other are not seen here.

use super::{CAPABILITIES, rows};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Points that exist once for each of several things.
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

/// Files with the steps of operations.
const FILES: &[&str] = &[
    "daemon/src/capability/nat.rs",
    "daemon/src/capability/ports.rs",
    "daemon/src/daemon.rs",
    "daemon/src/network/holder.rs",
    "daemon/src/network/lifecycle.rs",
    "daemon/src/network/lifecycle/start.rs",
    "machine/src/shim/claim.rs",
    "machine/src/shim/client.rs",
    "machine/src/shim/client/spawn.rs",
    "machine/src/shim/run.rs",
    "daemon/src/vm/create.rs",
    "daemon/src/vm/lease.rs",
    "daemon/src/vm/owner.rs",
    "daemon/src/vm/readopt.rs",
    "daemon/src/vm/reconcile.rs",
    "daemon/src/vm/release.rs",
    "daemon/src/vm/set.rs",
    "daemon/src/vm/set/network.rs",
    "daemon/src/vm/start.rs",
    "daemon/src/vm/stop.rs",
    "daemon/src/vm/task.rs",
];

/// Spellings of steps: they change a row, a file, a process or a NIC.
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
    "ServedSocket::open(",
    "= to_guest(",
    "Log::open(",
    "ports.open(",
    "socket::bind(",
    // Processes, and what they hold.
    "command.spawn(",
    "driver.launch(",
    "Memory::fresh(",
    "ShimRequest::",
    ".signal(",
    ".kill_vmm(",
    ".publish(*",
    ".unpublish(",
    ".end_and_wait(",
    ".end_machine()",
    "revoke(",
    "end_shim(",
    "end_proven(",
    "end_silent(",
    // Cards, and who carries them.
    ".assign_address(",
    ".release_address(",
    ".attach(",
    ".detach(",
    "network.adopt(",
    "network.update_policy(",
    "Helper::start(",
    "live.ensure(",
    "live.tell(",
    "self.ensure(",
    "self.tell(&Request::AttachVm",
    "write_all(b\"go",
    "record.write(",
    "recorded.write(",
    "holder::end(",
    // Several things'.
    "settle(&self.parts",
    "settle(&owner.parts",
    "capability.prepare(",
    "capability.contribute(",
    "capability.after_start(",
    "capability.release(",
];
/// Spellings of calls that consist of several steps, with a point after the last of them.
const WHOLES: &[&str] = &[
    " release(",
    ".down(",
    " sync_ports(",
    "take_durable(",
    "holder::hold(",
    "close(&mut record",
    "live.uplink(",
    "vms.reconcile()",
];

/// Functions that need no points. A `vm set` that is refused in part is reverted: nobody was told of it, and the next
/// daemon makes true whatever is written by then. The network's list of addresses is a cache.
const WITHOUT_POINTS: &[&str] = &["undo", "change_ports", "learn"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Collects the names of points in the source below `dir`, as far as they are literals.
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
    for its_crate in ["artifacts", "daemon", "machine"] {
        written(&crates().join(its_crate).join("src"), &mut points);
    }
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

/// A step in a function with no point after it so far.
#[derive(Clone, Copy)]
struct Open {
    line: usize,
    indent: usize,
}

/// A loop, whose last step in one iteration is followed by its first in the next.
struct Turns {
    line: usize,
    indent: usize,
    /// First step in it with no point before it.
    first: Option<usize>,
    has_point: bool,
}

/// The name of the function that begins in a line.
fn function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_declared = before.split_whitespace().all(|word| word == "async" || word.starts_with("pub"));
    is_declared.then(|| after.split(['(', '<']).next().unwrap_or_default())
}

/// How far a function has been read.
#[derive(Default)]
struct Reading {
    open: Option<Open>,
    /// Last steps of branches, followed by whatever comes after all branches.
    parked: Vec<Open>,
    loops: Vec<Turns>,
    found: Vec<(usize, usize)>,
}

impl Reading {
    fn begin(&mut self) {
        *self = Self { found: std::mem::take(&mut self.found), ..Self::default() };
    }

    fn point(&mut self) {
        self.open = None;
        self.loops.iter_mut().for_each(|turns| turns.has_point = true);
    }

    /// Begins another branch, at the indentation of its pattern.
    fn branch(&mut self, indent: usize) {
        self.parked.extend(self.open.take_if(|open| open.indent >= indent).map(|open| Open { indent, ..open }));
    }

    /// Ends everything that began at this indentation.
    fn end(&mut self, indent: usize) {
        while let Some(parked) = self.parked.pop_if(|parked| parked.indent > indent) {
            self.open.get_or_insert(parked);
        }
        if let Some(turns) = self.loops.pop_if(|turns| turns.indent == indent)
            && let (Some(first), Some(last)) = (turns.first, self.open.filter(|open| open.line > turns.line))
        {
            self.found.push((last.line, first));
        }
    }

    /// Adds so many steps, the last of which has a point after it or not.
    fn steps(&mut self, count: usize, here: Open, is_parted: bool) {
        self.found.extend(self.open.map(|open| (open.line, here.line)));
        if count > 1 {
            self.found.push((here.line, here.line));
        }
        for turns in self.loops.iter_mut().filter(|turns| !turns.has_point) {
            turns.first.get_or_insert(here.line);
        }
        self.open = (!is_parted).then_some(here);
    }
}

/// Finds steps of one function that follow each other without a point between them: on two lines, on one, or in two
/// iterations of a loop. Branches of one `match` do not follow each other, and nothing follows a `return`.
fn adjoining(text: &str) -> Vec<(usize, usize)> {
    let (mut reading, mut is_without) = (Reading::default(), false);
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        let line = line.split("//").next().unwrap_or_default();
        let words = line.trim_start();
        let here = Open { line: number + 1, indent: line.len() - words.len() };
        if let Some(name) = function(line) {
            reading.begin();
            is_without = WITHOUT_POINTS.contains(&name);
            continue;
        }
        if is_without {
            continue;
        }
        if words.starts_with('}') {
            reading.end(here.indent);
        }
        if line.contains("failpoint::hit") {
            reading.point();
        }
        if line.contains("=>") {
            reading.branch(here.indent);
        }
        if ["for ", "while ", "loop "].iter().any(|word| words.starts_with(word)) && line.ends_with('{') {
            reading.loops.push(Turns { line: here.line, indent: here.indent, first: None, has_point: false });
        }
        let count = |all: &[&str]| all.iter().map(|word| line.matches(word).count()).sum::<usize>();
        let (steps, wholes) = (count(STEPS), count(WHOLES));
        if steps + wholes > 0 {
            reading.steps(steps + wholes, here, steps == 0);
        }
        if ["return", "break", "continue"].iter().any(|word| line.contains(word)) {
            reading.open = None;
        }
    }
    reading.found
}

#[test]
fn two_steps_have_a_point_between_them() {
    for file in FILES {
        let text = std::fs::read_to_string(crates().join(file)).expect(file);
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
    let after = "fn f() {\n    match x {\n        A => {\n            store.claim(x);\n        }\n        B => {}\n    }\n    store.unclaim(x);\n}\n";
    assert_eq!(adjoining(after), [(4, 8)], "what comes after the branches follows each of them");
    let turns = "fn f() {\n    for x in y {\n        store.claim(x);\n    }\n}\n";
    assert_eq!(adjoining(turns), [(3, 3)], "the next turn follows");
    assert_eq!(adjoining(&turns.replace(";\n", ";\n        failpoint::hit(\"a\").await;\n")), []);
    assert_eq!(adjoining("fn f() {\n    store.claim(x).and_then(|()| store.unclaim(x))\n}\n"), [(2, 2)], "one line");
    let scrutinee = "fn f() {\n    match store.claim(x) {\n        A => store.unclaim(x),\n        B => {}\n    }\n}\n";
    assert_eq!(adjoining(scrutinee), [(2, 3)]);
}

#[test]
fn every_step_that_is_known_is_somewhere() {
    let source: String = FILES.iter().map(|file| std::fs::read_to_string(crates().join(file)).expect(file)).collect();
    let unknown: Vec<_> = STEPS.iter().chain(WHOLES).filter(|step| !source.contains(**step)).collect();
    assert!(unknown.is_empty(), "nothing is written like this any more: {unknown:?}");
}
