//! Rows of the matrix with an earlier machine: a second start, a kill.

use super::{
    Act::{Kill, KillDeaf, RunStopped, Start, StopUntold},
    BY_CHANCE, Cases, DOWN, FAILED, GONE, ON_ITS_WAY_AGAIN, RUNNING, Row, STOPPED, UP,
    Victim::{Client, Daemon, DaemonInTime, DaemonLongAgo, Guest, Shim, Vmm},
    all_of, everywhere,
};

/// How it ended before is forgotten, and no machine is there yet.
const FORGOTTEN: Cases = &[(Daemon, FAILED), (Client, STOPPED)];
/// Without whoever asked it is down as before; what lost its starter has failed, or comes up before the next daemon
/// looks.
const AGAIN_BEFORE_SHIM: Cases = &[(Daemon, BY_CHANCE), (DaemonInTime, RUNNING), (Client, STOPPED), (Shim, FAILED)];
const AGAIN_IN_SHIM: Cases = &[(Daemon, RUNNING), (Client, STOPPED), (Shim, FAILED)];
/// Its monitor was killed over its head: what it says of that when it goes on is chance, as nobody says what was meant.
const KILLED_OVER_A_HEAD: Cases = &[(Daemon, &["failed", "stopped"]), (Client, STOPPED)];

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
    ("shim.recorded", Start, &[(Daemon, RUNNING), (DaemonLongAgo, FAILED), (Client, STOPPED), (Shim, FAILED)]),
    ("shim.listening", Start, AGAIN_IN_SHIM),
    ("shim.running", Start, AGAIN_IN_SHIM),
    ("start.launched", Start, ON_ITS_WAY_AGAIN),
    ("start.ready", Start, UP),
    ("start.settled", Start, UP),
    ("start.saved", Start, UP),
    // Who dies without a word ended by itself, as far as anybody can know.
    ("kill.sent", Kill, &[(Daemon, STOPPED), (Client, STOPPED), (Shim, FAILED)]),
    ("kill.both", KillDeaf, KILLED_OVER_A_HEAD),
    ("look.silenced", StopUntold, DOWN),
    // It had no machine yet. Who had it made is not told that it is there, and takes it along.
    ("overtaken.saved", RunStopped, &[(Daemon, STOPPED), (Client, GONE)]),
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
    for victim in [Daemon, DaemonLongAgo, DaemonInTime, Client, Shim, Vmm, Guest] {
        everywhere(victim, &all_of(ROWS));
    }
}
