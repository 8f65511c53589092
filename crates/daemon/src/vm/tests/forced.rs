//! Machines that are ended by force, and what is kept of why.

use super::{
    agents::FakeAgent,
    machine::{FakeShim, adopt},
    *,
};
use crate::{
    shim::control::ShimRequest,
    vm::{owner::Owner, stop},
};

#[tokio::test]
async fn why_a_machine_is_ended_by_force_is_written_down_before_it_is() {
    let world = World::new();
    let mut row = world.vm("v", VmState::Running).await;
    row.run.agent_api = Some(1);
    let mut fake = FakeShim::of(&world, &row);
    let shim = adopt(&world, &row).await;
    let agent = FakeAgent::of(&world, &row);
    let mut owner = Owner::new(world.vms().parts.clone(), row.clone(), Some(shim));
    let record = ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 };
    let ends = async {
        agent.refuses(Code::Internal, "no").await;
        assert_eq!(fake.requests.recv().await, Some(ShimRequest::End));
        let now = world.row(&row).await.unwrap();
        fake.end(&world, &row, &record).await;
        (now.state, now.reason)
    };
    let operation = Operation::silent();
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
        let mut row = world.vm(name, VmState::Running).await;
        row.run.agent_api = Some(1);
        let mut fake = FakeShim::of(&world, &row);
        let shim = adopt(&world, &row).await;
        let agent = FakeAgent::of(&world, &row);
        let mut owner = Owner::new(world.vms().parts.clone(), row.clone(), Some(shim));
        let record = ExitRecord { cause, reason: "Kernel panic".into(), at: 1 };
        let operation = Operation::silent();
        let ends = async {
            agent.refuses(Code::Internal, "no").await;
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
    let why = Some("the guest did not power off within 2 s: its machine was ended by force".to_owned());
    for (before, cause, state, reason) in [
        (VmState::Stopping, ExitCause::Ended, VmState::Stopped, why.clone()),
        (VmState::Stopping, ExitCause::Poweroff, VmState::Stopped, None),
        (VmState::Stopping, ExitCause::VmmFailed, VmState::Failed, Some("it died".to_owned())),
        // What a guest that ran complained of is not why it was ended.
        (VmState::Running, ExitCause::Ended, VmState::Stopped, None),
    ] {
        let mut row = world.vm(&format!("{before}-{cause:?}").to_lowercase(), before).await;
        row.reason.clone_from(&why);
        world.store.update_vm(&row).await.unwrap();
        world.record(&row, EXIT_FILE, &ExitRecord { cause, reason: "it died".into(), at: 1 });
        world.vms().reconcile().await.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.reason), (state, reason), "{before} {cause:?}");
    }
    let mut row = world.vm("goes-on", VmState::Stopping).await;
    row.reason = why;
    world.store.update_vm(&row).await.unwrap();
    let _fake = FakeShim::with(&world, &row, 1, None);
    world.vms().reconcile().await.unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.reason), (VmState::Running, None), "its end did not come");
}
