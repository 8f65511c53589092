//! Rows of the matrix in which something was there before: a second start, a kill.

use super::{
    Act::{Kill, Start},
    BY_CHANCE, Cases, DOWN, FAILED, ON_ITS_WAY_AGAIN, Row, STOPPED, UP,
    Victim::{Client, Daemon, DaemonLongAgo, Guest, Shim, Vmm},
    all_of, everywhere,
};

/// How it ended before is forgotten, and no machine is there yet.
const FORGOTTEN: Cases = &[(Daemon, FAILED), (Client, STOPPED)];
/// Without whoever asked it is down as before; what lost its starter has failed, or comes up before the next daemon looks.
const AGAIN_BEFORE_SHIM: Cases = &[(Daemon, BY_CHANCE), (Client, STOPPED)];
const AGAIN_IN_SHIM: Cases = &[(Daemon, BY_CHANCE), (Client, STOPPED), (Shim, FAILED)];

pub(super) const ROWS: &[Row] = &[
    // A second time: the disk, the console and the record of how it ended are there already.
    ("start.recorded", Start, DOWN),
    ("start.claimed.shim", Start, DOWN),
    ("start.planned", Start, DOWN),
    ("launch.forgotten", Start, FORGOTTEN),
    ("launch.cleared", Start, FORGOTTEN),
    ("launch.planned", Start, FORGOTTEN),
    ("launch.spawned", Start, AGAIN_BEFORE_SHIM),
    ("shim.begun", Start, AGAIN_BEFORE_SHIM),
    ("shim.recorded", Start, &[(Daemon, BY_CHANCE), (DaemonLongAgo, FAILED), (Client, STOPPED), (Shim, FAILED)]),
    ("shim.listening", Start, AGAIN_IN_SHIM),
    ("shim.running", Start, AGAIN_IN_SHIM),
    ("start.launched", Start, ON_ITS_WAY_AGAIN),
    ("start.ready", Start, UP),
    ("start.settled", Start, UP),
    ("start.saved", Start, UP),
    ("kill.sent", Kill, DOWN),
    ("release.processes", Kill, DOWN),
    ("release.shim", Kill, DOWN),
    ("release.capabilities", Kill, DOWN),
    ("release.sockets", Kill, DOWN),
    ("release.run", Kill, DOWN),
    ("down.released", Kill, DOWN),
    ("down.saved", Kill, DOWN),
];

#[test]
fn whoever_dies_in_a_second_start_or_a_kill() {
    for victim in [Daemon, DaemonLongAgo, Client, Shim, Vmm, Guest] {
        everywhere(victim, &all_of(ROWS));
    }
}
