//! Commands for a VM while a step is in progress.

use super::{machine::FakeShim, *};
use crate::vm::{
    age,
    live_state::{LiveState, StateWatch},
    mailbox::ReservedMailbox,
    owner::Owner,
    phases::PhaseClock,
};
use banger_machine::shim::control::ShimRequest;
use banger_proto::failure::Failure;
use tokio::{task::JoinHandle, time::timeout};

const UNUSED: Op = Op::Stop { grace: None, cause: StopCause::Unused };
const RESTART: Op = Op::Restart { grace: None, overcommit: false };
/// Operations that ignore the free memory.
const OVERCOMMITTED: [Op; 2] =
    [Op::Start { wait: Wait::Agent, overcommit: true }, Op::Restart { grace: None, overcommit: true }];

/// Makes a running VM whose agent cannot be asked to power off.
async fn running(world: &World) -> (VmRow, FakeShim) {
    let row = world.vm("v", VmState::Running).await;
    let fake = FakeShim::of(world, &row);
    world.vms().reconcile().await.unwrap();
    (row, fake)
}

fn change(world: &World, op: Op) -> JoinHandle<Result<(), Failure>> {
    let service = world.vms().clone();
    tokio::spawn(async move { service.change("v", op, &Operation::unwatched()).await.map(drop) })
}

/// Plays the end of the machine that was requested.
async fn power_down(world: &World, row: &VmRow, fake: &mut FakeShim) {
    let record = ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 };
    fake.end(world, row, &record).await;
}

/// The start was tried: either there is no VMM on this host, or there is no image, because none was made here.
#[track_caller]
fn assert_tried(start: Result<(), Failure>) {
    let failure = start.unwrap_err();
    assert!(matches!(failure.code, Code::NotFound | Code::Unavailable), "{failure}");
}

#[tokio::test]
async fn a_vm_that_is_being_started_is_not_started_again() {
    let world = World::new();
    let row = world.vm("v", VmState::Starting).await;
    let _fake = FakeShim::with(&world, &row, 0, None);
    world.vms().reconcile().await.unwrap();
    let plain = [
        Op::Start { wait: Wait::Agent, overcommit: false },
        Op::Start { wait: Wait::Boot, overcommit: false },
        RESTART,
    ];
    for op in plain.into_iter().chain(OVERCOMMITTED) {
        let refused = change(&world, op.clone()).await.unwrap().unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (Code::Conflict, "VM v is being started"), "{op:?}");
    }
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.spec.overcommit), (VmState::Starting, false));
}

#[tokio::test]
async fn a_vm_that_is_being_stopped_is_not_started_whatever_its_start_would_take() {
    let world = World::new();
    let (row, mut fake) = running(&world).await;
    let stop = change(&world, Op::Stop { grace: None, cause: StopCause::Asked });
    assert!(matches!(fake.requests.recv().await, Some(ShimRequest::End)));
    for op in OVERCOMMITTED {
        // The test decides when the stop ends, so a command that waited for it would wait for ever.
        let refused = timeout(SOON, change(&world, op.clone())).await.expect("it is waited for").unwrap().unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (Code::Conflict, "VM v is being stopped"), "{op:?}");
    }
    power_down(&world, &row, &mut fake).await;
    stop.await.unwrap().unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.spec.overcommit), (VmState::Stopped, false), "nothing is kept of what was refused");
}

#[tokio::test]
async fn a_start_of_what_runs_is_nothing_to_do_whatever_it_would_take() {
    let world = World::new();
    let (row, _fake) = running(&world).await;
    let before = world.row(&row).await;
    change(&world, Op::Start { wait: Wait::Agent, overcommit: true }).await.unwrap().unwrap();
    assert_eq!(world.row(&row).await, before);
}

#[tokio::test]
async fn a_restart_that_cannot_be_takes_nothing_down() {
    let world = World::new();
    let (row, mut fake) = running(&world).await;
    for overcommit in [false, true] {
        assert_tried(change(&world, Op::Restart { grace: None, overcommit }).await.unwrap());
        assert!(fake.requests.try_recv().is_err(), "nothing is asked of its shim");
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.spec.overcommit), (VmState::Running, false));
    }
}

#[tokio::test]
async fn that_nobody_uses_a_vm_is_no_reason_to_cut_its_restart_short() {
    let world = World::new();
    let (row, mut fake) = running(&world).await;
    let (vms, operation) = (world.vms(), Operation::unwatched());
    // Order matters: both commands are in the mailbox before the VM's task reads either. So the task sees the second as
    // soon as the first one waits for anything, such as the probe of this host.
    let (restart, unused) = tokio::join!(vms.ask(&row.id, RESTART, &operation), vms.ask(&row.id, UNUSED, &operation));
    let refused = unused.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::Conflict, "VM v is in use"));
    assert_tried(restart);
    assert!(fake.requests.try_recv().is_err(), "nothing is asked of its shim");
}

#[tokio::test]
async fn who_wants_a_vm_while_it_is_stopped_because_nobody_did_gets_it_afterwards() {
    for wanted in [RESTART, Op::Start { wait: Wait::Agent, overcommit: false }] {
        let world = World::new();
        let (row, mut fake) = running(&world).await;
        let unused = change(&world, UNUSED);
        assert!(matches!(fake.requests.recv().await, Some(ShimRequest::End)));
        let operation = Operation::unwatched();
        // Order matters: the command comes before the machine is down.
        let (tried, ()) =
            tokio::join!(world.vms().ask(&row.id, wanted, &operation), power_down(&world, &row, &mut fake));
        assert_tried(tried);
        unused.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_vm_that_takes_its_time_to_go_holds_up_no_other() {
    let world = World::new();
    let aged = async |name: &str| {
        let mut row = VmRow { state: VmState::Stopped, created_at: 0, ..sample(name) };
        row.spec.ttl = Some("1s".parse().unwrap());
        world.store.insert_vm(row.clone()).await.unwrap();
        row
    };
    let slow = aged("slow").await;
    let mut asked = world.vms().register_idle(&slow);
    world.vms().start_expiry();
    let unanswered = asked.recv().await.unwrap();
    assert!(matches!(unanswered.op, Op::Delete { force: true }));
    let late = aged("late").await;
    world.vms().adopt(late.clone(), None);
    world.vms().new_vm.notify_one();
    wait_for("the deletion of the other", async || world.row(&late).await.is_none()).await;
    assert!(world.row(&slow).await.is_some());
    assert!(asked.try_recv().is_err(), "it was asked again while that is under way");
}

#[tokio::test]
async fn what_is_asked_of_a_vm_that_is_being_made_waits_until_it_is() {
    let world = World::new();
    let row = world.vm("v", VmState::Created).await;
    let (vms, operation) = (world.vms(), Operation::unwatched());
    let mailbox = ReservedMailbox::new(vms, &row.id, LiveState::of(row.state, true));
    assert!(vms.watch_state(&row.id).is_live(), "its console is waited for");
    for running in [true, false] {
        assert_eq!(vms.list(running).await.unwrap()[0].state, VmState::Starting);
    }
    let (delete, start) = (Op::Delete { force: false }, Op::Start { wait: Wait::Agent, overcommit: false });
    // Order matters: the deletion comes before the start.
    let (refused, tried) = tokio::join!(
        vms.ask(&row.id, delete, &operation),
        vms.adopt_and_start(row.clone(), mailbox, PhaseClock::start(), start, &operation)
    );
    let refused = refused.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::Conflict, "VM v is being started"));
    assert!(refused.hints[0].contains("banger vm delete -f v"), "{refused:?}");
    assert_tried(tried);
    assert_eq!(vms.show("v").await.unwrap().state, VmState::Created);
    assert!(!vms.watch_state(&row.id).is_live());
}

#[tokio::test]
async fn who_takes_a_vm_down_before_it_has_a_machine_has_one_that_is_stopped() {
    let world = World::new();
    let (vms, operation) = (world.vms(), Operation::unwatched());
    let stop = Op::Stop { grace: None, cause: StopCause::Asked };
    let kill = Op::Kill { signal: banger_proto::api::vm::KillSignal::Kill };
    for (name, op) in [("stopped", stop), ("killed", kill)] {
        let row = world.vm(name, VmState::Created).await;
        let mailbox = ReservedMailbox::new(vms, &row.id, LiveState::of(row.state, true));
        let start = Op::Start { wait: Wait::Agent, overcommit: false };
        // The command is in the mailbox before the start has probed this host.
        let (down, started) = tokio::join!(
            vms.ask(&row.id, op, &operation),
            vms.adopt_and_start(row.clone(), mailbox, PhaseClock::start(), start, &operation)
        );
        down.unwrap();
        started.unwrap_err();
        // A VM that is only created would be removed by its failed creation.
        assert_eq!(world.row(&row).await.unwrap().state, VmState::Stopped, "{name}");
    }
}

#[tokio::test]
async fn what_was_asked_of_a_vm_that_came_to_nothing_hears_that_there_is_none() {
    let world = World::new();
    let row = world.vm("v", VmState::Created).await;
    let (vms, operation) = (world.vms(), Operation::unwatched());
    let mailbox = ReservedMailbox::new(vms, &row.id, LiveState::of(row.state, false));
    assert_eq!(vms.show("v").await.unwrap().state, VmState::Created);
    let (asked, ()) = tokio::join!(vms.ask(&row.id, RESTART, &operation), async { drop(mailbox) });
    assert_eq!(asked.unwrap_err().code, Code::NotFound);
    assert_eq!(vms.ask(&row.id, RESTART, &operation).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_deletion_of_a_vm_whose_creation_is_taken_back_has_worked_whenever_it_comes() {
    let world = World::new();
    let row = world.vm("v", VmState::Created).await;
    let (vms, operation) = (world.vms(), Operation::unwatched());
    let mailbox = ReservedMailbox::new(vms, &row.id, LiveState::of(row.state, true));
    let take_back = async {
        // As an undone creation does: nobody has read the mailbox.
        release(&vms.parts, &row.id, Depth::Everything).await.unwrap();
        drop(mailbox);
    };
    let (deleted, ()) = tokio::join!(vms.delete(&row.id, false, &operation), take_back);
    deleted.expect("it waited at the door");
    vms.delete(&row.id, false, &operation).await.expect("there is no door any more");
    // A VM with a row is not gone, even if no task answers for it.
    let row = world.vm("w", VmState::Created).await;
    assert_eq!(vms.delete(&row.id, false, &operation).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn the_end_of_a_machine_is_one_for_who_follows_its_console_though_the_next_is_on_its_way() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut owner = Owner::new(world.vms().parts.clone(), row, None);
    let mut changes = StateWatch::of(Some(owner.watch_state()));
    assert!(changes.is_live());
    // Nobody looks between the two halves of a restart.
    owner.down(VmState::Stopped, None).await.unwrap();
    owner.row.state = VmState::Starting;
    owner.save().await.unwrap();
    assert!(!changes.is_live());
}

#[tokio::test]
async fn a_clock_that_was_set_ends_no_vm_before_its_time() {
    let world = World::new();
    // Created a moment ago with an hour to live, while the clock said 1970.
    let mut row = VmRow { created_at: 60, birth: age::Now::read().as_birth(), ..sample("early") };
    row.spec.ttl = Some("1h".parse().unwrap());
    let mut due = VmRow { created_at: 60, birth: None, ..sample("due") };
    due.spec.ttl = row.spec.ttl;
    let stays = VmRow { created_at: 60, birth: age::Now::read().as_birth(), ..sample("stays") };
    for row in [&row, &due, &stays] {
        world.store.insert_vm(row.clone()).await.unwrap();
        world.vms().adopt(row.clone(), None);
    }
    // The shown time is right at once, and the recorded one from the next check on.
    for vm in world.vms().list(false).await.unwrap() {
        assert_eq!(vm.created_at.starts_with("1970-"), vm.name == due.name, "{vm:?}");
    }
    world.vms().start_expiry();
    wait_for("the deletion of the old one", async || world.row(&due).await.is_none()).await;
    for row in [&row, &stays] {
        let now = world.row(row).await.unwrap();
        assert!(now.created_at > 1_700_000_000, "{now:?}");
    }
}

#[tokio::test]
async fn a_vm_is_shown_as_old_as_it_is_whatever_the_clock_was_when_it_was_made() {
    let world = World::new();
    let row = VmRow { created_at: 60, birth: age::Now::read().as_birth(), ..sample("early") };
    world.store.insert_vm(row.clone()).await.unwrap();
    // Also before a check has corrected the row.
    let shown = world.vms().show("early").await.unwrap().created_at;
    assert!(!shown.starts_with("1970"), "{shown}");
    world.vms().start_expiry();
    wait_for("its row to say so", async || world.row(&row).await.unwrap().created_at > 1_700_000_000).await;
    // The expiry task only waits now, and does not keep the service alive.
    let service = Arc::downgrade(world.vms());
    drop(world);
    wait_for("the end of the service", async || service.upgrade().is_none()).await;
}
