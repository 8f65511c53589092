//! Machines that are ended by force, and the reason that is recorded.

use super::{agents::Running, machine::FakeShim, *};
use crate::vm::stop;
use banger_machine::shim::control::ShimRequest;

#[tokio::test]
async fn why_a_machine_is_ended_by_force_is_written_down_before_it_is() {
    let world = World::new();
    let Running { row, mut owner, mut fake, agent } = world.running("v").await;
    let record = ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 };
    let ends = async {
        agent.refuse(Code::Internal, "no").await;
        assert_eq!(fake.requests.recv().await, Some(ShimRequest::End));
        let now = world.row(&row).await.unwrap();
        fake.end(&world, &row, &record).await;
        (now.state, now.reason)
    };
    let operation = Operation::unwatched();
    let (stopped, before) = tokio::join!(stop::stop(&mut owner, &operation, None, StopCause::Asked), ends);
    stopped.unwrap();
    let now = world.row(&row).await.unwrap();
    let why = now.reason.clone().unwrap();
    assert!(why.starts_with("the guest cannot be asked to power off: "), "{why}");
    assert!(why.ends_with(": its machine was ended by force"), "{why}");
    assert_eq!((before, now.state), ((VmState::Stopping, now.reason), VmState::Stopped));
}

#[tokio::test]
async fn a_machine_that_ended_by_itself_before_it_could_be_keeps_its_own_reason() {
    let world = World::new();
    for (name, cause, reason) in [
        ("a", ExitCause::GuestFailed, Some("Kernel panic")),
        ("b", ExitCause::VmmFailed, Some("Kernel panic")),
        ("c", ExitCause::Poweroff, None),
    ] {
        let Running { row, mut owner, mut fake, agent } = world.running(name).await;
        let record = ExitRecord { cause, reason: "Kernel panic".into(), at: 1 };
        let operation = Operation::unwatched();
        let ends = async {
            agent.refuse(Code::Internal, "no").await;
            assert_eq!(fake.requests.recv().await, Some(ShimRequest::End));
            fake.end(&world, &row, &record).await;
        };
        let (stopped, ()) = tokio::join!(stop::stop(&mut owner, &operation, None, StopCause::Asked), ends);
        stopped.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.reason.as_deref()), (VmState::Stopped, reason), "{cause:?}");
    }
}

#[tokio::test]
async fn a_later_daemon_knows_what_was_ended_by_force_and_what_was_not() {
    let world = World::new();
    let forced = "the guest did not power off within 2 s: its machine was ended by force";
    let (trouble, died) = ("its disk is full", "it died");
    for (index, (before, said, cause, state, reason)) in [
        (VmState::Stopping, forced, ExitCause::Ended, VmState::Stopped, Some(forced)),
        (VmState::Stopping, forced, ExitCause::Poweroff, VmState::Stopped, None),
        (VmState::Stopping, forced, ExitCause::VmmFailed, VmState::Failed, Some(died)),
        // Trouble reported by a running guest is not the reason for its end.
        (VmState::Running, forced, ExitCause::Ended, VmState::Stopped, None),
        (VmState::Stopping, trouble, ExitCause::Ended, VmState::Stopped, None),
        // The end is already recorded; only the machine's resources were not given back.
        (VmState::Stopped, forced, ExitCause::VmmFailed, VmState::Stopped, Some(forced)),
        (VmState::Failed, trouble, ExitCause::Poweroff, VmState::Failed, Some(trouble)),
    ]
    .into_iter()
    .enumerate()
    {
        let mut row = world.vm(&format!("v{index}"), before).await;
        world.store.claim(&row.id, ResourceKind::Shim, row.id.as_str()).await.unwrap();
        row.reason = Some(said.into());
        world.store.update_vm(&row).await.unwrap();
        world.record(&row, EXIT_FILE, &ExitRecord { cause, reason: died.into(), at: 1 });
        world.vms().reconcile().await.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.reason.as_deref()), (state, reason), "{before} {said} {cause:?}");
        assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory]);
    }
    let mut row = world.vm("goes-on", VmState::Stopping).await;
    row.reason = Some(forced.into());
    world.store.update_vm(&row).await.unwrap();
    let _fake = FakeShim::with(&world, &row, 1, None);
    world.vms().reconcile().await.unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.reason), (VmState::Running, None), "its end did not come");
}
