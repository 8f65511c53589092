//! Files that cannot be read when a daemon reconciles: the host has no free descriptor, or a disk has an error.

use super::{
    agents::FakeAgent,
    machine::{FakeShim, ready},
    *,
};
use banger_machine::shim::control::{SOCKET, ShimRequest};

#[tokio::test]
async fn an_exit_record_that_cannot_be_read_is_no_proof_that_a_machine_ended() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut fake = FakeShim::with(&world, &row, 0, Some(ready()));
    // A directory, because root could read any file.
    fs::create_dir(world.layout.vm(&row.id).join(EXIT_FILE)).unwrap();
    world.vms().reconcile().await.unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.reason), (VmState::Running, None));
    assert!(fake.is_alive() && fake.requests.try_recv().is_err(), "it was ended");
    assert!(world.holds(&row).await.contains(&ResourceKind::Shim));
}

#[tokio::test]
async fn a_shim_that_answers_is_found_whatever_of_its_files_can_be_read() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut fake = FakeShim::with(&world, &row, 0, Some(ready()));
    let runtime = world.layout.vm(&row.id).join(RUNTIME_FILE);
    fs::write(&runtime, "no record").unwrap();
    world.vms().reconcile().await.unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.reason), (VmState::Running, None));
    assert!(fake.is_alive() && fake.requests.try_recv().is_err(), "it was ended");
    // Processes that cannot be ended stay recorded.
    let failure = release(&world.vms().parts, &row.id, Depth::Everything).await.unwrap_err();
    assert!(failure.to_string().contains("cannot end the VM's processes"), "{failure}");
    assert!(runtime.exists() && world.row(&row).await.is_some());
    assert!(world.holds(&row).await.contains(&ResourceKind::Shim));
}

#[tokio::test]
async fn a_vm_of_which_nobody_can_tell_whether_it_runs_is_left_alone_until_somebody_can() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut fake = FakeShim::with(&world, &row, 0, Some(ready()));
    let (socket, runtime) = (world.layout.vm_run(&row.id).join(SOCKET), world.layout.vm(&row.id).join(RUNTIME_FILE));
    let aside = |path: &Path| path.with_extension("aside");
    for path in [&socket, &runtime] {
        fs::rename(path, aside(path)).unwrap();
    }
    fs::create_dir(&runtime).unwrap();
    world.vms().reconcile().await.unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!(now.state, VmState::Running);
    assert!(now.reason.is_some_and(|reason| reason.starts_with("whether it runs cannot be told: ")));
    assert!(fake.is_alive() && fake.requests.try_recv().is_err(), "it was ended");
    let stop = || Op::Stop { grace: None, cause: StopCause::Asked };
    for op in [stop(), Op::Start { wait: Wait::Agent, overcommit: false }] {
        let refused = world.vms().change("v", op, &Operation::unwatched()).await.unwrap_err();
        assert_eq!(refused.message, "whether VM v runs cannot be told", "{refused}");
        assert_eq!(world.row(&row).await.unwrap().state, VmState::Running);
        assert!(fake.is_alive(), "it was ended");
    }

    fs::remove_dir(&runtime).unwrap();
    for path in [&socket, &runtime] {
        fs::rename(aside(path), path).unwrap();
    }
    let agent = FakeAgent::of(&world, &row);
    let record = ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 };
    let ends = async {
        agent.refuse(Code::Internal, "no").await;
        assert_eq!(fake.requests.recv().await, Some(ShimRequest::End));
        fake.end(&world, &row, &record).await;
    };
    let operation = Operation::unwatched();
    let (stopped, ()) = tokio::join!(world.vms().change("v", stop(), &operation), ends);
    assert_eq!(stopped.unwrap().state, VmState::Stopped);
}

/// Makes a row of which a daemon could not tell whether its VM runs, and puts the shim's record back afterwards.
async fn untold(world: &World) -> (VmRow, FakeShim) {
    let row = world.vm("v", VmState::Running).await;
    let fake = FakeShim::with(world, &row, 0, Some(ready()));
    let (socket, runtime) = (world.layout.vm_run(&row.id).join(SOCKET), world.layout.vm(&row.id).join(RUNTIME_FILE));
    let aside = runtime.with_extension("aside");
    fs::remove_file(&socket).unwrap();
    fs::rename(&runtime, &aside).unwrap();
    fs::create_dir(&runtime).unwrap();
    world.vms().reconcile().await.unwrap();
    fs::remove_dir(&runtime).unwrap();
    fs::rename(aside, runtime).unwrap();
    (row, fake)
}

#[tokio::test]
async fn a_start_ends_no_machine_whose_shim_does_not_answer() {
    let world = World::new();
    let (row, mut fake) = untold(&world).await;
    let start = Op::Start { wait: Wait::Agent, overcommit: false };
    let refused = world.vms().change("v", start, &Operation::unwatched()).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::Unavailable, "whether VM v runs cannot be told"));
    assert!(refused.to_string().contains("did not answer for"), "{refused}");
    assert!(fake.is_alive(), "it was ended");
    assert_eq!(world.row(&row).await.unwrap().state, VmState::Running);
}

#[tokio::test]
async fn a_start_of_a_vm_that_ended_unseen_starts_it() {
    let world = World::new();
    let (row, mut fake) = untold(&world).await;
    let record = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
    fake.end(&world, &row, &record).await;
    let start = Op::Start { wait: Wait::Agent, overcommit: false };
    // Nothing can be launched in this world: the start is tried, and that is how it fails.
    let failure = world.vms().change("v", start, &Operation::unwatched()).await.unwrap_err();
    let now = world.row(&row).await.unwrap();
    assert!(!now.state.is_live(), "{now:?}: {failure}");
}
