//! Rows of the matrix with a network: a VM without a machine has no NIC, no tap and no rules, whoever died meanwhile.

use super::{
    Act::{
        Adopt, AdoptClosed, AdoptDead, AdoptDeleting, AdoptStray, CreateLeft, Delete, Run, RunNamed, SetPolicy, Stop,
    },
    BEFORE_MACHINE, Cases, DOWN, FAILED, FOUND, GOING_FOR_GOOD, GONE, RUNNING, Row,
    Victim::{Client, Daemon},
    WITH_MACHINE, all_of,
    case::CaseRunner,
    each,
};

/// It is seen to for nobody, while commands are answered.
const KEPT: Cases = &[(Daemon, RUNNING)];
/// The network goes after its last VM, which has failed by then.
const LAST: Cases = &[(Daemon, FAILED)];

pub(super) const ROWS: &[Row] = &[
    // The first VM's start is the network's; a daemon that finds nobody on it ends it, for the next row to make it
    // again.
    ("start.seated", Run, BEFORE_MACHINE),
    ("network.spawned", Run, BEFORE_MACHINE),
    ("network.recorded", Run, BEFORE_MACHINE),
    ("network.held", Run, BEFORE_MACHINE),
    ("network.helped", Run, BEFORE_MACHINE),
    ("network.ensured", Run, BEFORE_MACHINE),
    ("network.reconciled", Run, BEFORE_MACHINE),
    ("uplink.spawned", Run, BEFORE_MACHINE),
    ("uplink.recorded", Run, BEFORE_MACHINE),
    ("uplink.begun", Run, BEFORE_MACHINE),
    ("network.named", RunNamed, BEFORE_MACHINE),
    ("set.told", SetPolicy, &[(Daemon, RUNNING), (Client, RUNNING)]),
    ("network.ended", AdoptDead, LAST),
    ("start.contributed.nat", Run, BEFORE_MACHINE),
    ("start.settled", Run, WITH_MACHINE),
    ("release.detached", Stop, DOWN),
    ("release.detached", Delete, GOING_FOR_GOOD),
    ("release.nat", Delete, GOING_FOR_GOOD),
    ("release.nat", CreateLeft, &[(Daemon, GONE)]),
    ("adopt.networked", Adopt, FOUND),
    ("network.helped", Adopt, KEPT),
    ("network.reconciled", Adopt, KEPT),
    ("network.placed", Adopt, KEPT),
    ("uplink.closed", AdoptClosed, KEPT),
    ("release.detached", AdoptDead, &[(Daemon, FAILED)]),
    ("release.detached", AdoptDeleting, GOING_FOR_GOOD),
    ("sweep.removed.states", AdoptStray, GOING_FOR_GOOD),
];

#[test]
fn the_daemon_may_die_between_an_address_and_a_card() {
    let Some(runner) = crate::network_processes::networked_env().map(CaseRunner::of) else { return };
    each(&runner, Daemon, &all_of(ROWS));
}

#[test]
fn the_client_may_die_between_an_address_and_a_card() {
    let Some(runner) = crate::network_processes::networked_env().map(CaseRunner::of) else { return };
    each(&runner, Client, &all_of(ROWS));
}
