//! Rows of the matrix for leased VMs, which are deleted with their client.
//!
//! A leased VM found by a new daemon still belongs to its client: it keeps running without a daemon, and is deleted
//! when the client ends, however that happens. The end of a machine ends the client's session.

use super::{
    Act::{AdoptLeased, AdoptLeasedDead, AdoptLeasedFailed, RunLeased},
    BEFORE_MACHINE, Cases, FAILED, GONE, RUNNING, Row, UNWANTED,
    Victim::{Client, Daemon, Guest, Shim, Vmm},
    all_of, everywhere,
};

const HELD: Cases = &[(Daemon, RUNNING), (Client, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
/// Its client is gone already.
const LEFT: Cases = &[(Daemon, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
const GOES: Cases = &[(Daemon, GONE)];
/// A machine that ends before its agent answered is kept for inspection, and the agent may have answered by then;
/// afterwards it is deleted with its session.
const EITHER: &[&str] = &["failed", "gone"];
const COMING_UP: Cases = &[(Daemon, GONE), (Client, GONE), (Shim, EITHER), (Vmm, EITHER), (Guest, EITHER)];
const UNWANTED_OR_LOST: Cases = &[(Daemon, GONE), (Client, GONE), (Shim, GONE), (Vmm, GONE), (Guest, GONE)];
/// It never came to run, so it is kept, and nobody's.
const KEPT: Cases = &[(Daemon, FAILED), (Client, FAILED)];

pub(super) const ROWS: &[Row] = &[
    ("create.leased", RunLeased, UNWANTED),
    ("create.furnished", RunLeased, UNWANTED),
    ("start.recorded", RunLeased, BEFORE_MACHINE),
    ("start.launched", RunLeased, COMING_UP),
    ("start.ready", RunLeased, UNWANTED_OR_LOST),
    ("start.saved", RunLeased, UNWANTED_OR_LOST),
    ("adopt.row", AdoptLeased, HELD),
    ("adopt.networked", AdoptLeased, HELD),
    ("adopt.found", AdoptLeased, HELD),
    ("adopt.written", AdoptLeased, HELD),
    ("lease.found", AdoptLeased, HELD),
    ("adopt.done", AdoptLeased, HELD),
    ("serve.published", AdoptLeased, HELD),
    ("adopt.row", AdoptLeasedDead, LEFT),
    ("adopt.found", AdoptLeasedDead, LEFT),
    ("lease.found", AdoptLeasedDead, LEFT),
    ("lease.over", AdoptLeasedDead, LEFT),
    ("delete.begun", AdoptLeasedDead, LEFT),
    ("end.asked", AdoptLeasedDead, GOES),
    ("delete.ended", AdoptLeasedDead, GOES),
    ("release.processes", AdoptLeasedDead, GOES),
    ("release.directory", AdoptLeasedDead, GOES),
    ("release.row", AdoptLeasedDead, GOES),
    ("adopt.settled", AdoptLeasedFailed, KEPT),
    ("lease.found", AdoptLeasedFailed, KEPT),
    ("lease.ended", AdoptLeasedFailed, KEPT),
];

#[test]
fn the_daemon_of_a_vm_with_a_lease_may_die_at_every_point() {
    everywhere(Daemon, &all_of(ROWS));
}

#[test]
fn whoever_else_dies_a_vm_with_a_lease_goes_with_its_client() {
    for victim in [Client, Shim, Vmm, Guest] {
        everywhere(victim, &all_of(ROWS));
    }
}
