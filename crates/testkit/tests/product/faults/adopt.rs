//! Rows of the matrix in which a new daemon starts: it finds what the previous one left, and may be ended or killed
//! meanwhile.

use super::{
    Act::{
        Adopt, AdoptDead, AdoptDeleting, AdoptHalf, AdoptPublishing, AdoptSilent, AdoptStarting, AdoptStopping,
        AdoptStray, AdoptUnpublishing,
    },
    Cases, DOWN, FAILED, FOUND, GOING, GOING_FOR_GOOD, RUNNING, Row, STOPPED,
    Victim::{Client, Daemon, Guest, Shim, Vmm},
    all_of, everywhere,
};

const FOUND_DEAD: Cases = &[(Daemon, FAILED), (Client, FAILED)];
/// It is told to end; what dies before that has failed.
const SILENT: Cases = &[(Daemon, STOPPED), (Client, STOPPED), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];
/// Nobody asked for it, and nobody waits.
const GOES_ON: Cases = &[(Daemon, RUNNING), (Shim, FAILED), (Vmm, FAILED), (Guest, FAILED)];

pub(super) const ROWS: &[Row] = &[
    ("adopt.row", Adopt, FOUND),
    ("adopt.networked", Adopt, FOUND),
    ("adopt.found", Adopt, FOUND),
    ("adopt.written", Adopt, FOUND),
    ("adopt.done", Adopt, FOUND),
    ("serve.bound", Adopt, FOUND),
    ("serve.published", Adopt, FOUND),
    ("adopt.row", AdoptDead, FOUND_DEAD),
    ("revoke.ended", AdoptDead, FOUND_DEAD),
    ("adopt.released", AdoptDead, FOUND_DEAD),
    ("adopt.settled", AdoptDead, FOUND_DEAD),
    ("adopt.row", AdoptSilent, SILENT),
    // Its guest was told to power off.
    ("adopt.silenced", AdoptSilent, DOWN),
    // What was begun before goes on as it would have, or is taken back.
    ("adopt.row", AdoptStarting, FOUND),
    ("adopt.found", AdoptStarting, FOUND),
    ("start.ready", AdoptStarting, GOES_ON),
    ("start.settled", AdoptStarting, GOES_ON),
    ("start.saved", AdoptStarting, GOES_ON),
    ("adopt.row", AdoptStopping, FOUND),
    ("adopt.found", AdoptStopping, FOUND),
    ("adopt.unwanted", AdoptDeleting, GOING),
    // Of shim and VMM, one after the other.
    ("revoke.killed", AdoptDeleting, GOING_FOR_GOOD),
    ("revoke.ended", AdoptDeleting, GOING_FOR_GOOD),
    ("revoke.unplanned", AdoptDeleting, GOING_FOR_GOOD),
    ("release.processes", AdoptDeleting, GOING_FOR_GOOD),
    ("release.vmm", AdoptDeleting, GOING_FOR_GOOD),
    ("release.sockets", AdoptDeleting, GOING_FOR_GOOD),
    ("release.run", AdoptDeleting, GOING_FOR_GOOD),
    ("release.directory", AdoptDeleting, GOING_FOR_GOOD),
    ("release.state", AdoptDeleting, GOING_FOR_GOOD),
    ("release.row", AdoptDeleting, GOING_FOR_GOOD),
    ("adopt.unwanted", AdoptHalf, GOING_FOR_GOOD),
    ("revoke.unplanned", AdoptHalf, GOING_FOR_GOOD),
    ("release.processes", AdoptHalf, GOING_FOR_GOOD),
    ("release.directory", AdoptHalf, GOING_FOR_GOOD),
    ("release.state", AdoptHalf, GOING_FOR_GOOD),
    ("release.row", AdoptHalf, GOING_FOR_GOOD),
    ("agree.claimed", AdoptPublishing, FOUND),
    ("agree.opened", AdoptPublishing, FOUND),
    ("agree.closed", AdoptUnpublishing, FOUND),
    ("agree.unclaimed", AdoptUnpublishing, FOUND),
    ("sweep.found.states", AdoptStray, GOING),
    ("sweep.ended.states", AdoptStray, GOING_FOR_GOOD),
    ("sweep.removed.states", AdoptStray, GOING_FOR_GOOD),
    ("sweep.found.sockets", AdoptStray, GOING_FOR_GOOD),
    ("sweep.ended.sockets", AdoptStray, GOING_FOR_GOOD),
    ("sweep.removed.sockets", AdoptStray, GOING_FOR_GOOD),
];

#[test]
fn a_daemon_may_die_while_it_finds_what_another_left() {
    everywhere(Daemon, &all_of(ROWS));
}

#[test]
fn a_client_may_die_while_its_daemon_finds_what_another_left() {
    everywhere(Client, &all_of(ROWS));
}

#[test]
fn what_a_daemon_finds_may_end_meanwhile() {
    for victim in [Shim, Vmm, Guest] {
        everywhere(victim, &all_of(ROWS));
    }
}
