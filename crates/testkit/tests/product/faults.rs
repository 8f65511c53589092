//! The fault matrix: at every fail-point between two steps of create, start, stop, restart, set, delete and adopt, each
//! process that may die there dies; afterwards a new daemon starts, and everything must match the VMs' states.
//!
//! A point is armed by a file, reached by an ordinary command, and halts its process while the victim is killed (see
//! `banger_artifacts::failpoint`). A point that is not reached fails the test, and so does one that is passed, or
//! occurs in the source, and has no row ([`source`]): the tables cannot fall behind the code. Two known steps in one
//! function without a point between them fail it as well. Points of images have a test of their own.
//!
//! A row has no case for a process that does not exist there:
//!
//! | where | who may not die, because |
//! |---|---|
//! | before `launch.spawned`, and once the shim's end is seen | shim, VMM, guest: there is none |
//! | from `launch.spawned` to `shim.memory` | VMM, guest: there is none |
//! | `shim.launched`, `shim.running` | guest: its agent may not have begun, and before it has, its end is the VMM's |
//! | once the guest powers off, or the machine's end was asked for | VMM, guest: they end by themselves meanwhile |
//! | work without a client (continued starts, ended leases, undoing) | client: it is gone, or never existed |
//! | the network's own processes (`network.*`, `uplink.*`) | shim, VMM, guest: they live without the network |
//!
//! [`Victim::DaemonLongAgo`] and [`Victim::DaemonInTime`] only die where a shim starts whose daemon is gone: elsewhere
//! they equal [`Victim::Daemon`]. A shim that would end by itself is halted at its end, so that it can be killed
//! before. A daemon that starts meanwhile waits its full timeout for a halted shim, so there is one such case of each
//! kind.

mod adopt;
mod again;
mod case;
mod lease;
mod life;
mod nic;
mod source;
mod undone;

use case::CaseRunner;
use std::collections::BTreeSet;

/// Process that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    /// The daemon; the next one has recovered everything before the halted shim continues, which its own daemon did not
    /// live to follow.
    DaemonLongAgo,
    /// The daemon; the shim has come up before the next one looks.
    DaemonInTime,
    /// The client that sent the request; for a leased VM found by a new daemon, the client with the lease.
    Client,
    Shim,
    Vmm,
    /// The guest's kernel panics: its agent is gone.
    Guest,
}

/// Operation during which the victim dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// `vm run -d`: create and start.
    Run,
    /// `vm run --rm -- CMD`: create and start, with a lease.
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
    /// `vm kill` of one that runs, whose shim is halted.
    KillDeaf,
    /// `vm run -d` into a network with a name.
    RunNamed,
    /// `vm set` of what one that runs may reach.
    SetPolicy,
    /// A stop preempts a creation.
    RunStopped,
    /// `vm stop` of one of which a daemon could not tell whether it runs, and whose shim does not answer.
    StopUntold,
    /// The client died before, and the operation is being undone: a creation, a first start, another start.
    CreateLeft,
    RunLeft,
    StartLeft,
    /// The VMM died before its guest was up.
    RunLost,
    RunLeasedLost,
    /// A new daemon finds one that runs.
    Adopt,
    /// A new daemon finds one that runs, and is configured without an uplink.
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

/// States the VM may have afterwards (`gone` if it does not exist).
type States = &'static [&'static str];
/// Victims, and the states allowed after each.
type Cases = &'static [(Victim, States)];
/// Fail-point, operation and cases.
type Row = (&'static str, Act, Cases);

const GONE: States = &["gone"];
const CREATED: States = &["created"];
const FAILED: States = &["failed"];
const RUNNING: States = &["running"];
const STOPPED: States = &["stopped"];
/// States after a shim lost its daemon before it could be found: it may come up before the next daemon looks or not.
/// [`Victim::DaemonLongAgo`] and [`Victim::DaemonInTime`] show what each leads to.
const BY_CHANCE: States = &["failed", "running"];
/// The client is dead and the daemon noticed, so nobody wants the VM.
const UNWANTED: Cases = &[(Daemon, GONE), (Client, GONE)];
const BEFORE_MACHINE: Cases = &[(Daemon, FAILED), (Client, GONE)];
/// A client that dies takes its VM along, until it was told that the VM runs.
const WITH_MACHINE: Cases = &[(Daemon, RUNNING), (Client, GONE), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// A client that dies takes the VM down again, unless it is up already.
const ON_ITS_WAY_AGAIN: Cases =
    &[(Daemon, RUNNING), (Client, &["running", "stopped"]), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// The VM is up and stays up without the client.
const UP: Cases = &[(Daemon, RUNNING), (Client, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
const DOWN: Cases = &[(Daemon, STOPPED), (Client, STOPPED)];
/// A deletion that has begun finishes, whoever dies.
const GOING: Cases = &[(Daemon, GONE), (Client, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
const GOING_FOR_GOOD: Cases = &[(Daemon, GONE), (Client, GONE)];
/// The client that had the daemon started waits for an answer and may leave without one.
const FOUND: Cases = UP;

/// Capabilities of a VM's start, in order; there is a point after each of them.
const CAPABILITIES: &[&str] =
    &["root-image", "work-disk", "kernel-files", "nat", "dns", "ports", "boot-config", "ssh", "file-sync"];
/// The capability before which there is no VM yet.
const FIRST: &str = "root-image";

/// Rows with complete names of points.
type Rows = Vec<(String, Act, Cases)>;

fn all_of(table: &[Row]) -> Rows {
    table.iter().map(|(point, act, cases)| ((*point).to_owned(), *act, *cases)).collect()
}

/// Rows of the points between two capabilities.
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
    let tables = [life::ROWS, again::ROWS, undone::ROWS, adopt::ROWS, lease::ROWS, nic::ROWS];
    tables.into_iter().flat_map(all_of).chain(capabilities()).collect()
}

/// Runs all cases of a table for one victim.
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
