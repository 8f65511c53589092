//! Rows of the matrix in which something was there before: a second start, a lease, what another daemon began, a kill.

use super::{
    Act::{AdoptDeleting, AdoptStarting, AdoptStopping, Kill, RunLeased, Start},
    BEFORE_MACHINE, BY_CHANCE, Cases, DOWN, FAILED, FOUND, GONE, ON_ITS_WAY_AGAIN, Row, STOPPED, UNWANTED, UP,
    Victim::{Client, Daemon, DaemonLongAgo, Shim},
};

/// Without whoever asked it is down as before; what lost its starter has failed, or comes up before the next daemon looks.
const AGAIN_BEFORE_SHIM: Cases = &[(Daemon, BY_CHANCE), (Client, STOPPED)];
const AGAIN_IN_SHIM: Cases = &[(Daemon, BY_CHANCE), (Client, STOPPED), (Shim, FAILED)];

pub(super) const ROWS: &[Row] = &[
    // A second time: the disk, the console and the record of how it ended are there already.
    ("start.recorded", Start, DOWN),
    ("start.claimed", Start, DOWN),
    ("start.planned", Start, DOWN),
    ("launch.planned", Start, &[(Daemon, FAILED), (Client, STOPPED)]),
    ("launch.spawned", Start, AGAIN_BEFORE_SHIM),
    ("shim.begun", Start, AGAIN_BEFORE_SHIM),
    ("shim.recorded", Start, &[(Daemon, BY_CHANCE), (DaemonLongAgo, FAILED), (Client, STOPPED), (Shim, FAILED)]),
    ("shim.listening", Start, AGAIN_IN_SHIM),
    ("shim.running", Start, AGAIN_IN_SHIM),
    ("start.launched", Start, ON_ITS_WAY_AGAIN),
    ("start.ready", Start, UP),
    ("start.saved", Start, UP),
    // With a lease.
    ("create.furnished", RunLeased, UNWANTED),
    ("start.recorded", RunLeased, BEFORE_MACHINE),
    ("start.launched", RunLeased, UNWANTED),
    ("start.saved", RunLeased, UNWANTED),
    // What was begun before goes on as it would have, or is taken back.
    ("adopt.row", AdoptStarting, FOUND),
    ("adopt.found", AdoptStarting, FOUND),
    ("adopt.row", AdoptStopping, FOUND),
    ("adopt.found", AdoptStopping, FOUND),
    ("release.processes", AdoptDeleting, &[(Daemon, GONE)]),
    ("release.run", AdoptDeleting, &[(Daemon, GONE)]),
    ("release.state", AdoptDeleting, &[(Daemon, GONE)]),
    ("release.processes", Kill, DOWN),
    ("release.shim", Kill, DOWN),
    ("release.capabilities", Kill, DOWN),
    ("release.run", Kill, DOWN),
    ("down.released", Kill, DOWN),
];
