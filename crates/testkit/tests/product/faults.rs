//! The fault matrix: at every point between two steps of create, start, stop, restart, set, delete and adopt, whoever may die there
//! dies; afterwards a new daemon comes, and everything is exactly what the states say.
//!
//! A point is armed by a file, reached by an ordinary command, and held while the victim is killed (see
//! `banger_artifacts::failpoint`). A point that is not reached fails the test, and so does one that is passed, or stands in the
//! source, and has no row ([`source`]): these tables cannot fall behind the code. Nor can two steps that are known there come to
//! stand beside each other in one function without a point between them. Points of images have a test of their own.
//!
//! A row has no case of somebody who is not there:
//!
//! | where | who may not die, because |
//! |---|---|
//! | before `launch.spawned`, and once the shim's end is seen | shim, VMM, guest: there is none |
//! | from `launch.spawned` to `shim.memory` | VMM, guest: there is none |
//! | `shim.launched`, `shim.running` | guest: its agent may not have begun, and before it has, its end is the VMM's |
//! | once the guest powers off, or the machine's end was asked for | VMM, guest: they go by themselves meanwhile |
//! | what is done for nobody (a start that goes on, a lease that is over, what is taken back) | client: it is gone, or was never there |
//! | what only carries VMs (`network.*`, `uplink.*`) | shim, VMM, guest: it is theirs to live without |
//!
//! [`Victim::DaemonLongAgo`] and [`Victim::DaemonInTime`] die only where a shim begins that no daemon follows: elsewhere they
//! are [`Victim::Daemon`]. A shim that would be gone by itself is held at its own end, so that it can die before. A daemon
//! that comes meanwhile waits its whole patience for a shim that is held, so that one of each kind has to do.

mod adopt;
mod again;
mod card;
mod case;
mod lease;
mod life;
mod source;
mod undone;

use case::CaseRunner;
use std::collections::BTreeSet;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    /// The same, and the next daemon has brought everything to order before what was held goes on: a shim that a daemon
    /// started and did not live to follow.
    DaemonLongAgo,
    /// The same, and the shim has come up before the next daemon looks.
    DaemonInTime,
    /// Whoever asked. Where a VM with a lease is found by a new daemon: whose lease it is.
    Client,
    Shim,
    Vmm,
    /// The guest's kernel panics: its agent is gone.
    Guest,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// `vm run -d`: create and start.
    Run,
    /// `vm run --rm -- CMD`: the same with a lease.
    RunLeased,
    /// `vm create --no-start`.
    Create,
    /// `vm start` of a VM that was stopped.
    Start,
    Stop,
    /// `vm stop` of one whose guest does not power off.
    StopForced,
    /// `vm restart` of one that runs.
    Restart,
    /// `vm set` of one that runs.
    Set,
    /// `vm publish` of one that runs.
    Publish,
    /// `vm unpublish` of one that runs.
    Unpublish,
    /// `vm delete -f` of one that runs.
    Delete,
    /// `vm kill` of one that runs.
    Kill,
    /// The same, and its shim stands still.
    KillDeaf,
    /// `vm run -d` into a network with a name.
    RunNamed,
    /// `vm set` of what one that runs may reach.
    SetPolicy,
    /// A stop comes in the way of a creation.
    RunStopped,
    /// `vm stop` of one of which a daemon could not tell whether it runs, and whose shim does not answer.
    StopUntold,
    /// Somebody dies before, and what was begun is taken back: the client of a creation, of a first start, of another one.
    CreateLeft,
    RunLeft,
    StartLeft,
    /// The same where the VMM dies before its guest is up.
    RunLost,
    RunLeasedLost,
    /// A new daemon finds one that runs.
    Adopt,
    /// The same, and there is to be no way out any more.
    AdoptClosed,
    /// A new daemon finds one whose shim died meanwhile, or lives and does not answer.
    AdoptDead,
    AdoptSilent,
    /// A new daemon finds one whose creation, start, stop or deletion was cut short with the daemon before.
    AdoptHalf,
    AdoptStarting,
    AdoptStopping,
    AdoptDeleting,
    /// A new daemon finds one whose ports were to change.
    AdoptPublishing,
    AdoptUnpublishing,
    /// A new daemon finds one that runs, and no row of it.
    AdoptStray,
    /// A new daemon finds one with a lease, and its client, who may be gone; and one that never came to run.
    AdoptLeased,
    AdoptLeasedDead,
    AdoptLeasedFailed,
}

use Act::{Delete, Run, Stop};
use Victim::{Client, Daemon, Guest, Shim, Vmm};

/// What the VM may be afterwards (`gone` when it is not).
type States = &'static [&'static str];
/// Who may die.
type Cases = &'static [(Victim, States)];
/// Where, and while what is done.
type Row = (&'static str, Act, Cases);

const GONE: States = &["gone"];
const CREATED: States = &["created"];
const FAILED: States = &["failed"];
const RUNNING: States = &["running"];
const STOPPED: States = &["stopped"];
/// A shim that lost its starter before it could be found comes up before the next daemon looks, or does not. Which of both
/// leads to what is shown by [`Victim::DaemonLongAgo`] and [`Victim::DaemonInTime`].
const BY_CHANCE: States = &["failed", "running"];
/// Nobody is left who wanted it: the client is dead and the daemon noticed.
const UNWANTED: Cases = &[(Daemon, GONE), (Client, GONE)];
const BEFORE_MACHINE: Cases = &[(Daemon, FAILED), (Client, GONE)];
/// A client that dies takes its VM along until it was told that it runs.
const WITH_MACHINE: Cases = &[(Daemon, RUNNING), (Client, GONE), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// A client that dies takes it down again, unless it is up already.
const ON_ITS_WAY_AGAIN: Cases =
    &[(Daemon, RUNNING), (Client, &["running", "stopped"]), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// It is up, and stays so without whoever asked.
const UP: Cases = &[(Daemon, RUNNING), (Client, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
const DOWN: Cases = &[(Daemon, STOPPED), (Client, STOPPED)];
/// A deletion that has begun ends, whoever dies.
const GOING: Cases = &[(Daemon, GONE), (Client, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
const GOING_FOR_GOOD: Cases = &[(Daemon, GONE), (Client, GONE)];
/// Whose client, the one that had the daemon started, waits for an answer and may go without one.
const FOUND: Cases = UP;

/// What a VM's start needs from the host, in order: after each of them there is a point.
const CAPABILITIES: &[&str] =
    &["root-image", "work-disk", "kernel-files", "nat", "dns", "ports", "boot-config", "ssh", "file-sync"];
/// The one before which there is no VM yet.
const FIRST: &str = "root-image";

/// Rows, of which there may be one for each of several things.
type Rows = Vec<(String, Act, Cases)>;

fn all_of(table: &[Row]) -> Rows {
    table.iter().map(|(point, act, cases)| ((*point).to_owned(), *act, *cases)).collect()
}

/// Those between two capabilities.
fn capabilities() -> Rows {
    let mut rows = Rows::new();
    for name in CAPABILITIES {
        let made: Cases = if *name == FIRST { UNWANTED } else { &[(Daemon, CREATED), (Client, GONE)] };
        rows.extend([
            (format!("create.prepared.{name}"), Run, made),
            (format!("start.contributed.{name}"), Run, BEFORE_MACHINE),
            (format!("start.followed.{name}"), Run, WITH_MACHINE),
            (format!("release.{name}"), Stop, DOWN),
            (format!("release.{name}"), Delete, GOING_FOR_GOOD),
        ]);
    }
    rows
}

/// Every row there is.
fn rows() -> Rows {
    let tables = [life::ROWS, again::ROWS, undone::ROWS, adopt::ROWS, lease::ROWS, card::ROWS];
    tables.into_iter().flat_map(all_of).chain(capabilities()).collect()
}

/// Has a victim die in all its cases of a table.
fn everywhere(victim: Victim, table: &Rows) {
    let Some(runner) = CaseRunner::new() else { return };
    each(&runner, victim, table);
}

fn each(runner: &CaseRunner, victim: Victim, table: &Rows) {
    let mut count = 0;
    for (point, act, cases) in table {
        for (dies, allowed) in cases.iter().filter(|(dies, _)| *dies == victim) {
            runner.run_case(point, *act, *dies, allowed);
            count += 1;
        }
    }
    assert!(count > 0, "nobody dies");
    let rows = rows();
    let known: BTreeSet<&str> = rows.iter().map(|(point, ..)| point.as_str()).collect();
    let mut unknown = runner.passed();
    unknown.retain(|point| !known.contains(point.as_str()));
    assert!(unknown.is_empty(), "points that were passed and have no row: {unknown:?}");
    runner.end();
}
