//! Cases of the matrix with a network: who has no machine has no card, no tap and no rules, whoever died meanwhile.

use super::{
    Act::{Adopt, AdoptDead, AdoptDeleting, AdoptStray, CreateLeft, Delete, Run, Stop},
    DOWN, FAILED, GONE, RUNNING, Row,
    Victim::Daemon,
    all_of,
    bench::Bench,
    each,
};

const ROWS: &[Row] = &[
    ("start.seated", Run, &[(Daemon, FAILED)]),
    ("start.contributed.nat", Run, &[(Daemon, FAILED)]),
    ("release.detached", Stop, DOWN),
    ("release.detached", Delete, &[(Daemon, GONE)]),
    ("release.nat", Delete, &[(Daemon, GONE)]),
    ("release.nat", CreateLeft, &[(Daemon, GONE)]),
    ("adopt.networked", Adopt, &[(Daemon, RUNNING)]),
    ("release.detached", AdoptDead, &[(Daemon, FAILED)]),
    ("release.detached", AdoptDeleting, &[(Daemon, GONE)]),
    ("sweep.removed.states", AdoptStray, &[(Daemon, GONE)]),
];

#[test]
fn the_daemon_may_die_between_an_address_and_a_card() {
    let Some(bench) = crate::carriers::carried().map(Bench::of) else { return };
    each(&bench, Daemon, &all_of(ROWS));
}
