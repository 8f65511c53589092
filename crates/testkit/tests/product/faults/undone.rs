//! Rows of the matrix in which an operation is undone because a process died: the daemon dies in the middle of that.
//!
//! A client that left cannot die again. Undoing a first start ends with a deletion, which begins when the VM is down: a
//! daemon that dies before leaves the VM as it was then.

use super::{
    Act::{CreateLeft, RunLeasedLost, RunLeft, RunLost, StartLeft},
    CREATED, Cases, FAILED, GONE, Row, STOPPED,
    Victim::{Client, Daemon},
    all_of, everywhere,
};

/// A creation that failed is no VM, whoever dies before all of it is gone.
const NOTHING: Cases = &[(Daemon, GONE)];
/// It never had a machine, and says so.
const WITHOUT_MACHINE: Cases = &[(Daemon, FAILED)];
const AS_IT_WAS: Cases = &[(Daemon, STOPPED)];
/// It is kept for its console, as long as somebody is there to be told.
const TO_BE_SEEN: Cases = &[(Daemon, FAILED), (Client, GONE)];
const SEEN: Cases = &[(Daemon, FAILED), (Client, FAILED)];

pub(super) const ROWS: &[Row] = &[
    ("create.undone", CreateLeft, NOTHING),
    ("revoke.ended", CreateLeft, NOTHING),
    ("revoke.unplanned", CreateLeft, NOTHING),
    ("release.processes", CreateLeft, NOTHING),
    ("release.nat", CreateLeft, NOTHING),
    ("release.work-disk", CreateLeft, NOTHING),
    ("release.sockets", CreateLeft, NOTHING),
    ("release.directory", CreateLeft, NOTHING),
    ("release.state", CreateLeft, NOTHING),
    ("release.row", CreateLeft, NOTHING),
    ("release.processes", RunLeft, WITHOUT_MACHINE),
    ("release.sockets", RunLeft, WITHOUT_MACHINE),
    ("down.released", RunLeft, WITHOUT_MACHINE),
    ("down.saved", RunLeft, &[(Daemon, CREATED)]),
    ("delete.begun", RunLeft, NOTHING),
    ("delete.ended", RunLeft, NOTHING),
    ("release.row", RunLeft, NOTHING),
    // The next daemon finds the machine's end, or that it ends while it waits for its agent.
    ("end.asked", StartLeft, &[(Daemon, &["stopped", "failed"])]),
    ("start.ended", StartLeft, AS_IT_WAS),
    ("revoke.ended", StartLeft, AS_IT_WAS),
    ("revoke.unplanned", StartLeft, AS_IT_WAS),
    ("release.processes", StartLeft, AS_IT_WAS),
    ("release.capabilities", StartLeft, AS_IT_WAS),
    ("release.sockets", StartLeft, AS_IT_WAS),
    ("down.released", StartLeft, AS_IT_WAS),
    ("down.saved", StartLeft, AS_IT_WAS),
    ("start.ended", RunLost, TO_BE_SEEN),
    ("revoke.ended", RunLost, TO_BE_SEEN),
    ("release.processes", RunLost, TO_BE_SEEN),
    ("release.capabilities", RunLost, TO_BE_SEEN),
    ("release.sockets", RunLost, TO_BE_SEEN),
    ("down.released", RunLost, TO_BE_SEEN),
    ("down.saved", RunLost, TO_BE_SEEN),
    ("create.kept", RunLost, SEEN),
    ("release.processes", RunLeasedLost, TO_BE_SEEN),
    ("down.saved", RunLeasedLost, TO_BE_SEEN),
    ("create.kept", RunLeasedLost, SEEN),
];

#[test]
fn the_daemon_may_die_while_what_was_begun_is_taken_back() {
    everywhere(Daemon, &all_of(ROWS));
}

#[test]
fn the_client_may_die_while_a_start_that_failed_is_taken_back() {
    everywhere(Client, &all_of(ROWS));
}
