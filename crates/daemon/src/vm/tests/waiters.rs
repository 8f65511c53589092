//! Clients that wait for services, and their errors when the wait ends early.

use super::{
    machine::{FakeShim, adopt, ready, wait_for_event},
    *,
};
use crate::{
    operation::BACKLOG,
    vm::{
        owner::Owner,
        task::{self, Command, Next},
        wait::boot::Waiters,
        watchdog,
    },
};
use banger_proto::failure::Failure;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

const BOOT: Op = Op::Start { wait: Wait::Boot, overcommit: false };

fn command(op: Op) -> (Command, oneshot::Receiver<Result<(), Failure>>) {
    let (reply, answer) = oneshot::channel();
    (Command { op, operation: Operation::unwatched(), reply }, answer)
}

/// A running VM and a client that waits for its services.
struct Waiting {
    world: World,
    row: VmRow,
    fake: FakeShim,
    operation: Operation,
    answer: JoinHandle<Result<(), Failure>>,
}

impl Waiting {
    async fn services() -> Self {
        let world = World::new();
        let row = world.vm("v", VmState::Running).await;
        let fake = FakeShim::with(&world, &row, 0, Some(ready()));
        world.vms().reconcile().await.unwrap();
        let (lines, mut said) = mpsc::channel(BACKLOG);
        let (service, operation) = (world.vms().clone(), Operation::watched(lines));
        let asked = operation.clone();
        let answer = tokio::spawn(async move { service.change("v", BOOT, &asked).await.map(drop) });
        wait_for_event(&mut said, "waiting for the image's services").await;
        Self { world, row, fake, operation, answer }
    }

    async fn failure(self) -> Failure {
        self.answer.await.unwrap().unwrap_err()
    }
}

#[tokio::test]
async fn one_who_leaves_leaves_a_vm_that_runs() {
    let mut wait = Waiting::services().await;
    wait.operation.cancel().cancel();
    let failure = (&mut wait.answer).await.unwrap().unwrap_err();
    assert_eq!(failure.message, "VM v runs; the wait for its services was cut short");
    let now = wait.world.row(&wait.row).await.unwrap();
    assert_eq!(now.state, VmState::Running);
    assert!(wait.fake.requests.try_recv().is_err(), "nobody asked its agent to go");
}

#[tokio::test]
async fn one_whose_vm_is_stopped_is_told_that_it_went_down() {
    let mut wait = Waiting::services().await;
    let service = wait.world.vms().clone();
    let stop = Op::Stop { grace: None, cause: StopCause::Asked };
    let stopping = tokio::spawn(async move { service.change("v", stop, &Operation::unwatched()).await.map(drop) });
    // Its agent does not answer.
    wait.fake.requests.recv().await.unwrap();
    assert!(!wait.answer.is_finished(), "it has not gone down yet");
    let record = ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 };
    wait.fake.end(&wait.world, &wait.row, &record).await;
    stopping.await.unwrap().unwrap();
    assert_eq!(wait.failure().await.message, "VM v went down; the wait for its services was cut short");
}

#[tokio::test]
async fn one_whose_vm_ends_is_told_how() {
    for (cause, code) in [
        (ExitCause::Poweroff, Code::Guest),
        (ExitCause::Ended, Code::Conflict),
        (ExitCause::Killed, Code::Conflict),
        (ExitCause::GuestFailed, Code::Guest),
        (ExitCause::VmmFailed, Code::Unavailable),
    ] {
        let mut wait = Waiting::services().await;
        let record = ExitRecord { cause, reason: "in its own words".into(), at: 1 };
        wait.fake.end(&wait.world, &wait.row, &record).await;
        let failure = wait.failure().await;
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (code, "VM v ended before its services were up"),
            "{cause:?}"
        );
        assert_eq!(failure.causes, ["in its own words"], "{cause:?}");
    }
}

#[tokio::test]
async fn one_whose_guest_is_silent_is_told_that_it_runs_and_others_wait_on() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let owner = Owner::new(world.vms().parts.clone(), row, None);
    let mut waiters = Waiters::new();
    let (left, mut answer) = command(BOOT);
    let (stays, mut other) = command(BOOT);
    left.operation.cancel().cancel();
    waiters.complete(left, &owner);
    waiters.complete(stays, &owner);
    // One client has left; the other still has time.
    waiters.any_expired().await;
    waiters.answer_expired(&owner);
    assert_eq!(answer.try_recv().unwrap().unwrap_err().message, "VM v runs; the wait for its services was cut short");
    assert!(other.try_recv().is_err() && waiters.any());
    waiters.watchdog = watchdog::tests::expired();
    waiters.any_expired().await;
    waiters.answer_expired(&owner);
    let failure = other.try_recv().unwrap().unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (Code::Timeout, "VM v runs, but its services are not up"));
    let why = "its init did not say that it finished booting, and the guest showed no progress for";
    assert!(failure.causes[0].starts_with(why), "{failure}");
    assert!(!waiters.any());
}

#[tokio::test]
async fn what_is_asked_comes_first_then_what_the_guest_said_and_at_last_the_end_of_a_wait() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let _fake = FakeShim::with(&world, &row, 0, Some(ready()));
    let shim = adopt(&world, &row).await;
    let mut owner = Owner::new(world.vms().parts.clone(), row, Some(shim));
    let mut waiters = Waiters::new();
    let (waits, _answer) = command(BOOT);
    waiters.complete(waits, &owner);
    waiters.watchdog = watchdog::tests::expired();
    let (sender, mut commands) = mpsc::channel(1);
    // All three are ready in each round; a random order would fail sooner or later.
    for round in 0..20 {
        owner.resubscribe();
        let (asked, _answer) = command(BOOT);
        sender.send(asked).await.unwrap();
        let first = task::next(&mut commands, &mut owner, &waiters).await;
        assert!(matches!(first, Next::Command(_)), "round {round}: {first:?}");
        let second = task::next(&mut commands, &mut owner, &waiters).await;
        assert!(matches!(second, Next::Message(_)), "round {round}: {second:?}");
        let third = task::next(&mut commands, &mut owner, &waiters).await;
        assert!(matches!(third, Next::WaitExpired), "round {round}: {third:?}");
    }
    drop(sender);
    assert!(matches!(task::next(&mut commands, &mut owner, &waiters).await, Next::Closed));
}
