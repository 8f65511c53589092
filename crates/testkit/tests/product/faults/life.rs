//! Rows of the matrix for a VM's first life: created, started, changed, stopped, deleted.

use super::{
    Act::{Create, Delete, Publish, Restart, Run, Set, Start, Stop, StopForced, Unpublish},
    BEFORE_MACHINE, BY_CHANCE, CREATED, Cases, DOWN, FAILED, GOING, GOING_FOR_GOOD, GONE, ON_ITS_WAY_AGAIN, RUNNING,
    Row, STOPPED, UNWANTED, UP,
    Victim::{Client, Daemon, DaemonInTime, DaemonLongAgo, Guest, Shim, Vmm},
    WITH_MACHINE, all_of, capabilities, everywhere,
};

/// Nobody can know the shim yet.
const UNKNOWN_SHIM: Cases =
    &[(Daemon, BY_CHANCE), (DaemonLongAgo, FAILED), (DaemonInTime, RUNNING), (Client, GONE), (Shim, FAILED)];
/// It can be found, and is waited for.
const IN_SHIM: Cases = &[(Daemon, RUNNING), (Client, GONE), (Shim, FAILED)];
const IN_SHIM_LONG_AGO: Cases = &[(Daemon, RUNNING), (DaemonLongAgo, FAILED), (Client, GONE), (Shim, FAILED)];
const IN_SHIM_WITH_VMM: Cases =
    &[(Daemon, RUNNING), (DaemonLongAgo, FAILED), (Client, GONE), (Shim, FAILED), (Vmm, FAILED)];
/// What is to go down has not been told yet: without a daemon it stays, and what dies of it has stopped.
const GOING_DOWN: Cases = &[(Daemon, RUNNING), (Client, STOPPED), (Shim, STOPPED), (Vmm, STOPPED), (Guest, STOPPED)];
/// Its machine is over, and its shim has still to say so.
const MACHINE_OVER: Cases = &[(Daemon, STOPPED), (Client, STOPPED), (Shim, STOPPED)];
const MACHINE_GONE: Cases = &[(Daemon, GONE), (Client, GONE), (Shim, GONE)];

pub(super) const ROWS: &[Row] = &[
    ("create.settled", Run, UNWANTED),
    ("create.named", Run, UNWANTED),
    ("create.claimed", Run, UNWANTED),
    ("create.directory", Run, UNWANTED),
    ("create.furnished", Run, &[(Daemon, CREATED), (Client, GONE)]),
    ("create.furnished", Create, &[(Daemon, CREATED), (Client, GONE)]),
    ("create.synced", Create, &[(Daemon, CREATED), (Client, GONE)]),
    ("start.recorded", Run, BEFORE_MACHINE),
    ("start.claimed.state_dir", Run, BEFORE_MACHINE),
    ("start.claimed.run_dir", Run, BEFORE_MACHINE),
    ("start.claimed.shim", Run, BEFORE_MACHINE),
    // How it ended last time is how it is still.
    ("start.directory", Start, DOWN),
    ("start.directories", Start, DOWN),
    ("start.seated", Run, BEFORE_MACHINE),
    ("start.port", Run, BEFORE_MACHINE),
    ("start.planned", Run, BEFORE_MACHINE),
    ("launch.forgotten", Run, BEFORE_MACHINE),
    ("launch.cleared", Run, BEFORE_MACHINE),
    ("launch.planned", Run, BEFORE_MACHINE),
    ("launch.spawned", Run, &[(Daemon, BY_CHANCE), (DaemonInTime, RUNNING), (Client, GONE), (Shim, FAILED)]),
    ("shim.begun", Run, UNKNOWN_SHIM),
    ("shim.staged", Run, UNKNOWN_SHIM),
    ("shim.claimed", Run, IN_SHIM_LONG_AGO),
    ("shim.recorded", Run, IN_SHIM_LONG_AGO),
    ("shim.askable", Run, IN_SHIM),
    ("shim.guest", Run, IN_SHIM),
    ("shim.agent", Run, IN_SHIM),
    ("shim.port", Run, IN_SHIM),
    ("shim.listening", Run, IN_SHIM_LONG_AGO),
    ("shim.console", Run, IN_SHIM),
    ("shim.dated", Run, IN_SHIM),
    ("shim.memory", Run, IN_SHIM),
    ("shim.launched", Run, IN_SHIM_WITH_VMM),
    ("shim.running", Run, IN_SHIM_WITH_VMM),
    ("launch.detached", Run, WITH_MACHINE),
    ("start.launched", Run, WITH_MACHINE),
    ("start.ready", Run, WITH_MACHINE),
    ("start.settled", Run, WITH_MACHINE),
    ("start.saved", Run, WITH_MACHINE),
    ("stop.recorded", Stop, GOING_DOWN),
    // The guest goes by itself from here on, and its VMM and its shim with it.
    ("stop.asked", Stop, MACHINE_OVER),
    // This one stays.
    ("stop.asked", StopForced, GOING_DOWN),
    ("shim.over", Stop, MACHINE_OVER),
    ("shim.exited", Stop, MACHINE_OVER),
    ("stop.ended", Stop, DOWN),
    ("stop.forced", StopForced, GOING_DOWN),
    ("end.asked", StopForced, MACHINE_OVER),
    ("stop.ended", StopForced, DOWN),
    ("revoke.ended", Stop, DOWN),
    ("revoke.unplanned", Stop, DOWN),
    ("release.processes", Stop, DOWN),
    ("release.shim", Stop, DOWN),
    ("release.port", Stop, DOWN),
    ("release.detached", Stop, DOWN),
    ("release.capabilities", Stop, DOWN),
    ("release.vmm", Stop, DOWN),
    ("release.sockets", Stop, DOWN),
    ("release.run", Stop, DOWN),
    ("down.released", Stop, DOWN),
    ("down.saved", Stop, DOWN),
    // What was to go down anyway may die there: the way up begins all the same.
    (
        "stop.recorded",
        Restart,
        &[(Daemon, RUNNING), (Client, RUNNING), (Shim, RUNNING), (Vmm, RUNNING), (Guest, RUNNING)],
    ),
    ("stop.ended", Restart, DOWN),
    ("down.released", Restart, DOWN),
    ("down.saved", Restart, DOWN),
    ("restart.down", Restart, DOWN),
    ("start.recorded", Restart, DOWN),
    ("start.launched", Restart, ON_ITS_WAY_AGAIN),
    ("start.ready", Restart, UP),
    ("set.saved", Set, UP),
    ("set.recorded", Publish, UP),
    ("set.claimed", Publish, UP),
    ("shim.opened", Publish, UP),
    ("set.opened", Publish, UP),
    ("set.changed", Publish, UP),
    ("set.recorded", Unpublish, UP),
    ("set.closed", Unpublish, UP),
    ("set.unclaimed", Unpublish, UP),
    ("set.changed", Unpublish, UP),
    ("delete.begun", Delete, GOING),
    ("end.asked", Delete, MACHINE_GONE),
    ("shim.over", Delete, MACHINE_GONE),
    ("shim.exited", Delete, MACHINE_GONE),
    ("delete.ended", Delete, GOING_FOR_GOOD),
    ("revoke.ended", Delete, GOING_FOR_GOOD),
    ("revoke.unplanned", Delete, GOING_FOR_GOOD),
    ("release.processes", Delete, GOING_FOR_GOOD),
    ("release.shim", Delete, GOING_FOR_GOOD),
    ("release.port", Delete, GOING_FOR_GOOD),
    ("release.detached", Delete, GOING_FOR_GOOD),
    ("release.capabilities", Delete, GOING_FOR_GOOD),
    ("release.vmm", Delete, GOING_FOR_GOOD),
    ("release.sockets", Delete, GOING_FOR_GOOD),
    ("release.run", Delete, GOING_FOR_GOOD),
    ("release.directory", Delete, GOING_FOR_GOOD),
    ("release.state", Delete, GOING_FOR_GOOD),
    ("release.row", Delete, GOING_FOR_GOOD),
];

#[test]
fn the_daemon_may_die_at_every_point() {
    everywhere(Daemon, &all_of(ROWS));
}

#[test]
fn the_daemon_may_die_between_any_two_things_that_a_vm_needs() {
    everywhere(Daemon, &capabilities());
}

#[test]
fn the_next_daemon_may_be_done_before_a_shim_is_up() {
    everywhere(DaemonLongAgo, &all_of(ROWS));
}

#[test]
fn a_shim_that_is_up_in_time_is_found_by_the_next_daemon() {
    everywhere(DaemonInTime, &all_of(ROWS));
}

#[test]
fn the_client_may_die_at_every_point() {
    everywhere(Client, &all_of(ROWS));
}

#[test]
fn the_client_may_die_between_any_two_things_that_a_vm_needs() {
    everywhere(Client, &capabilities());
}

#[test]
fn the_shim_may_die_wherever_there_is_one() {
    everywhere(Shim, &all_of(ROWS).into_iter().chain(capabilities()).collect());
}

#[test]
fn the_vmm_may_die_wherever_there_is_one() {
    everywhere(Vmm, &all_of(ROWS).into_iter().chain(capabilities()).collect());
}

#[test]
fn the_guest_may_panic_wherever_there_is_one() {
    everywhere(Guest, &all_of(ROWS).into_iter().chain(capabilities()).collect());
}
