//! Machines of which some process does not end. A lock plays that process: whoever runs a VM holds it, and its holder
//! has not recorded its identity here, so nobody can be killed.

use super::{machine::FakeShim, *};
use banger_machine::shim::control::ShimRequest;
use banger_proto::api::vm::KillSignal;
use rustix::fs::{FlockOperation, flock};

/// Holds the VM's lock as a running shim does, until it is dropped.
fn hold_lock(world: &World, row: &VmRow) -> fs::File {
    let directory = fs::File::open(world.layout.vm(&row.id)).unwrap();
    flock(&directory, FlockOperation::NonBlockingLockExclusive).unwrap();
    directory
}

fn ended() -> ExitRecord {
    ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 }
}

/// The VM is recorded as failed, and it keeps its resources.
async fn assert_held(world: &World, row: &VmRow) {
    let now = world.row(row).await.unwrap();
    assert_eq!(now.state, VmState::Failed);
    let reason = now.reason.unwrap_or_default();
    assert!(reason.contains("were killed and not gone"), "{reason}");
    assert!(world.holds(row).await.contains(&ResourceKind::Shim), "nothing keeps another from its disk");
}

#[tokio::test]
async fn a_stop_that_leaves_something_running_fails_and_nothing_is_started_beside_it() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut fake = FakeShim::of(&world, &row);
    world.vms().reconcile().await.unwrap();
    let holder = hold_lock(&world, &row);
    let operation = Operation::unwatched();
    let ends = async {
        assert_eq!(fake.requests.recv().await, Some(ShimRequest::End));
        fake.end(&world, &row, &ended()).await;
    };
    let stop = Op::Stop { grace: None, cause: StopCause::Asked };
    let (stopped, ()) = tokio::join!(world.vms().change("v", stop, &operation), ends);
    let failure = stopped.unwrap_err();
    assert_eq!(failure.message, "VM v is not down: what runs of it does not end", "{failure}");
    assert_held(&world, &row).await;

    let start = || Op::Start { wait: Wait::Agent, overcommit: false };
    let refused = world.vms().change("v", start(), &operation).await.unwrap_err();
    assert_eq!((refused.code, refused.hints.len()), (Code::Conflict, 1), "{refused}");
    assert_eq!(refused.message, "VM v cannot start: what ran of it does not end");
    assert_held(&world, &row).await;

    for again in [Op::Stop { grace: None, cause: StopCause::Asked }, Op::Kill { signal: KillSignal::Kill }] {
        let refused = world.vms().change("v", again, &operation).await.unwrap_err();
        assert_eq!(refused.message, "VM v is not down: what runs of it does not end", "{refused}");
    }
    drop(holder);
    let tried = world.vms().change("v", start(), &operation).await.unwrap_err();
    // Either there is no VMM on this host, or there is no image, because none was made here.
    assert!(matches!(tried.code, Code::NotFound | Code::Unavailable), "{tried}");
    assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory], "it is given back first");
}

#[tokio::test]
async fn a_second_stop_ends_what_the_first_left_running() {
    for again in [Op::Stop { grace: None, cause: StopCause::Asked }, Op::Kill { signal: KillSignal::Kill }] {
        let world = World::new();
        let row = world.vm("v", VmState::Running).await;
        world.record(&row, EXIT_FILE, &ended());
        let holder = hold_lock(&world, &row);
        world.vms().reconcile().await.unwrap();
        assert_held(&world, &row).await;
        drop(holder);
        let now = world.vms().change("v", again, &Operation::unwatched()).await.unwrap();
        assert_eq!((now.state, now.reason), (VmState::Stopped, None));
        assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory]);
    }
}

#[tokio::test]
async fn a_daemon_that_finds_something_that_does_not_end_does_not_say_that_it_did() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    world.record(&row, EXIT_FILE, &ended());
    let _holder = hold_lock(&world, &row);
    world.vms().reconcile().await.unwrap();
    assert_held(&world, &row).await;
}
