//! The service and a machine whose shim is played by the test.

use super::{agents::Running, ports::FakePorts, *};
use crate::{
    operation::BACKLOG,
    vm::{owner::Owner, stop, wait},
};
use banger_machine::shim::{
    client::{Adopted, Shim},
    control::{SOCKET, ShimMessage, ShimRequest, ShimStatus},
};
use banger_proto::{
    agent::{
        boot::Init,
        event::{GuestEvent, Ready},
    },
    api::vm::{KillSignal, Phase},
    framing,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

/// A shim. It passes on the requests that it gets.
pub(super) struct FakeShim {
    process: TestProcess,
    pub(super) requests: mpsc::UnboundedReceiver<ShimRequest>,
    serving: tokio::task::JoinHandle<()>,
}

impl FakeShim {
    pub(super) fn of(world: &World, row: &VmRow) -> Self {
        Self::with(world, row, 1, None)
    }

    pub(super) fn with(world: &World, row: &VmRow, relaunches: u32, ready: Option<Ready>) -> Self {
        Self::of_vmm(world, row, None, relaunches, ready)
    }

    /// Makes a shim whose VMM is the given process.
    fn of_vmm(world: &World, row: &VmRow, vmm: Option<ProcessIdentity>, relaunches: u32, ready: Option<Ready>) -> Self {
        let process = TestProcess::new();
        world.record(row, RUNTIME_FILE, &runtime(process.identity()));
        let socket = world.layout.vm_run(&row.id).join(SOCKET);
        fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let status = ShimStatus {
            version: String::new(),
            shim: process.identity(),
            vmm,
            ready,
            booted: None,
            console_bytes: 0,
            vmm_started_ms: None,
            ready_ms: None,
            relaunches,
            unconfined: None,
            published: Vec::new(),
        };
        let ports = Arc::new(FakePorts::default());
        let serving = tokio::spawn(async move {
            // The connections end with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let status = ShimStatus { published: ports.all(), ..status.clone() };
                connections.spawn(serve(stream, status, ports.clone(), sender.clone()));
            }
        });
        Self { process, requests, serving }
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// Ends, leaving this exit record.
    pub(super) async fn end(&mut self, world: &World, row: &VmRow, record: &ExitRecord) {
        world.record(row, EXIT_FILE, record);
        self.serving.abort();
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
        let _ = (&mut self.serving).await;
    }
}

async fn serve(
    mut stream: UnixStream,
    status: ShimStatus,
    ports: Arc<FakePorts>,
    requests: mpsc::UnboundedSender<ShimRequest>,
) -> std::io::Result<()> {
    let say = |message: ShimMessage| framing::encode(&message).unwrap();
    stream.write_all(&say(ShimMessage::Status(status))).await?;
    loop {
        let mut header = [0; framing::HEADER];
        stream.read_exact(&mut header).await?;
        let mut body = vec![0; framing::body_length(header).unwrap()];
        stream.read_exact(&mut body).await?;
        let request = framing::decode(&body).unwrap();
        let answer = match request {
            ShimRequest::Publish { port } => Some(ports.open(port)),
            ShimRequest::Unpublish { port } => Some(ports.close(port)),
            ShimRequest::Signal { .. } | ShimRequest::End => None,
        };
        // A test that has the answer finds its request in the channel.
        let _ = requests.send(request);
        if let Some(answer) = answer {
            stream.write_all(&say(answer)).await?;
        }
    }
}

pub(super) async fn adopt(world: &World, row: &VmRow) -> Shim {
    let (run_dir, state_dir) = (world.layout.vm_run(&row.id), world.layout.vm(&row.id));
    match world.vms().parts.shims.adopt(&run_dir, &state_dir).await.unwrap() {
        Adopted::Running(shim) => shim,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_kill_of_a_machine_that_has_just_ended_has_worked() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut fake = FakeShim::of(&world, &row);
    let shim = adopt(&world, &row).await;
    let record = ExitRecord { cause: ExitCause::GuestFailed, reason: "Kernel panic".into(), at: 1 };
    fake.end(&world, &row, &record).await;
    assert_eq!(shim.ended().await, record);
    let mut owner = Owner::new(world.vms().parts.clone(), row.clone(), Some(shim));
    stop::kill(&mut owner, KillSignal::Kill).await.unwrap();
    let now = world.row(&row).await.unwrap();
    assert_eq!((now.state, now.reason.as_deref()), (VmState::Failed, Some("Kernel panic")));
}

#[tokio::test]
async fn a_machine_that_ends_while_it_is_killed_ended_as_it_says() {
    let world = World::new();
    for (name, cause, state, reason) in [
        ("a", ExitCause::Killed, VmState::Stopped, None),
        ("b", ExitCause::GuestFailed, VmState::Failed, Some("Kernel panic")),
    ] {
        let row = world.vm(name, VmState::Running).await;
        let mut fake = FakeShim::of(&world, &row);
        let shim = adopt(&world, &row).await;
        let mut owner = Owner::new(world.vms().parts.clone(), row.clone(), Some(shim));
        let record = ExitRecord { cause, reason: "Kernel panic".into(), at: 1 };
        let ends = async {
            let asked = fake.requests.recv().await;
            assert!(matches!(asked, Some(ShimRequest::Signal { .. })), "{asked:?}");
            fake.end(&world, &row, &record).await;
        };
        let (killed, ()) = tokio::join!(stop::kill(&mut owner, KillSignal::Kill), ends);
        killed.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.reason.as_deref()), (state, reason));
    }
}

#[tokio::test]
async fn a_kill_that_a_shim_does_not_pass_on_ends_the_machine_and_the_shim() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let vmm = TestProcess::new();
    let mut fake = FakeShim::of_vmm(&world, &row, Some(vmm.identity()), 0, Some(ready()));
    let shim = adopt(&world, &row).await;
    let mut owner = Owner::new(world.vms().parts.clone(), row.clone(), Some(shim));
    // A VMM could survive SIGTERM, so only the shim sends it.
    let refused = stop::kill(&mut owner, KillSignal::Term).await.unwrap_err();
    assert!(refused.code == Code::Timeout && refused.message.contains("still runs 2 s after SIGTERM"), "{refused}");
    assert!(vmm.identity().alive() && fake.process.identity().alive());
    stop::kill(&mut owner, KillSignal::Kill).await.unwrap();
    for signal in [KillSignal::Term, KillSignal::Kill] {
        assert_eq!(fake.requests.recv().await, Some(ShimRequest::Signal { signal }), "it is asked first");
    }
    let now = world.row(&row).await.unwrap();
    assert_eq!(now.state, VmState::Stopped);
    let reason = now.reason.unwrap_or_default();
    assert!(reason.starts_with("its shim (pid ") && reason.contains("did not pass SIGKILL on"), "{reason}");
    for mut process in [vmm, fake.process] {
        let status = process.0.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
    assert_eq!(world.holds(&row).await, [ResourceKind::StateDirectory]);
}

#[tokio::test]
async fn a_machine_that_reboots_publishes_what_is_written_down_too() {
    let world = World::new();
    let mut row = world.vm("v", VmState::Running).await;
    row.spec.network.publish = vec!["127.0.0.1:8080:80".parse().unwrap()];
    world.store.update_vm(&row).await.unwrap();
    let mut fake = FakeShim::of(&world, &row);
    world.vms().reconcile().await.unwrap();
    let asked = fake.requests.try_recv().expect("it is asked before the daemon answers anybody");
    assert_eq!(asked, ShimRequest::Publish { port: row.spec.network.publish[0] });
    assert_eq!(world.row(&row).await.unwrap().run.published, row.spec.network.publish);
}

pub(super) fn ready() -> Ready {
    Ready {
        agent_version: "0".into(),
        api_version: 1,
        boot_id: "b".into(),
        kernel_release: "6.1".into(),
        init: Init::Image,
        phases: Vec::new(),
    }
}

pub(super) async fn wait_for_event(said: &mut mpsc::Receiver<Bytes>, words: &str) {
    let search = async {
        while let Some(line) = said.recv().await {
            if String::from_utf8_lossy(&line).contains(words) {
                return;
            }
        }
        panic!("it never says {words:?}");
    };
    timeout(SOON, search).await.unwrap_or_else(|_| panic!("it does not say {words:?}"));
}

#[tokio::test]
async fn what_a_machine_that_is_found_again_does_is_told_by_its_agent_and_its_reboots() {
    let world = World::new();
    let (running, starting, stopping) = (VmState::Running, VmState::Starting, VmState::Stopping);
    let mut fakes = Vec::new();
    for (name, before, relaunches, agent, state) in [
        ("up", running, 0, Some(ready()), running),
        // A reboot takes as long as it takes: no start is resumed that could time out.
        ("rebooting", running, 1, None, running),
        ("rebooting-at-its-end", stopping, 1, None, running),
        ("half-stopped", stopping, 0, Some(ready()), running),
        ("half-started", starting, 0, None, starting),
        ("half-started-and-rebooting", starting, 1, None, starting),
    ] {
        let mut row = world.vm(name, before).await;
        (row.run.agent_api, row.run.boot_state) = (Some(1), Some("running".into()));
        world.store.update_vm(&row).await.unwrap();
        let answers = agent.is_some();
        fakes.push((FakeShim::with(&world, &row, relaunches, agent), row, answers, state));
    }
    world.vms().reconcile().await.unwrap();
    for (_, row, answers, state) in &fakes {
        let now = world.row(row).await.unwrap();
        assert_eq!((now.state, now.run.agent_api.is_some()), (*state, *answers), "{}", row.name);
        assert!(*answers || now.run.boot_state.is_none(), "{}: what is known is of another boot", row.name);
    }
}

#[tokio::test]
async fn a_guest_that_is_on_its_way_down_already_is_waited_for() {
    let world = World::new();
    let Running { row, mut owner, mut fake, agent } = world.running("v").await;
    let (lines, mut said) = mpsc::channel(BACKLOG);
    let operation = Operation::watched(lines);
    let record = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
    let goes = async {
        agent.refuse(Code::Conflict, "the guest is going down already").await;
        wait_for_event(&mut said, "waiting for the guest to power off").await;
        fake.end(&world, &row, &record).await;
    };
    let (stopped, ()) = tokio::join!(stop::stop(&mut owner, &operation, Some(SOON), StopCause::Asked), goes);
    stopped.unwrap();
    assert_eq!(world.row(&row).await.unwrap().state, VmState::Stopped);
    assert!(fake.requests.try_recv().is_err(), "it was ended by force");
}

#[tokio::test]
async fn a_vm_whose_services_are_waited_for_is_used() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let mut fake = FakeShim::with(&world, &row, 0, Some(ready()));
    world.vms().reconcile().await.unwrap();
    let (lines, mut said) = mpsc::channel(BACKLOG);
    let (service, operation) = (world.vms().clone(), Operation::watched(lines));
    let waiting = tokio::spawn(async move {
        service.change("v", Op::Start { wait: Wait::Boot, overcommit: false }, &operation).await.map(drop)
    });
    wait_for_event(&mut said, "waiting for the image's services").await;
    let unused = Op::Stop { grace: None, cause: StopCause::Unused };
    let refused = world.vms().change("v", unused, &Operation::unwatched()).await.unwrap_err();
    assert!(refused.code == Code::Conflict && refused.message.contains("in use"), "{refused}");
    assert!(!waiting.is_finished());
    assert_eq!(world.row(&row).await.unwrap().state, VmState::Running);
    assert!(fake.requests.try_recv().is_err(), "nothing was asked of it");
}

#[tokio::test]
async fn the_first_command_is_a_phase_of_a_start_whose_guest_booted_twice_and_not_of_a_reboot() {
    let world = World::new();
    for (name, ready_first, expected) in [("timer", false, true), ("reboot", true, false)] {
        let row = world.vm(name, VmState::Running).await;
        let mut owner = Owner::new(world.vms().parts.clone(), row, None);
        if ready_first {
            owner.apply(is_up());
            owner.record_phases(kernel_phase());
        }
        owner.apply(ShimMessage::Relaunching);
        owner.apply(is_up());
        if !ready_first {
            owner.record_phases(kernel_phase());
        }
        owner.apply(first_exec());
        assert_eq!(has_exec_phase(&owner), expected, "{name}");
    }
}

#[tokio::test]
async fn the_first_command_is_a_phase_of_a_start_that_a_later_daemon_resumed() {
    let world = World::new();
    for (name, state, expected) in [("resumed", VmState::Starting, true), ("running", VmState::Running, false)] {
        let row = world.vm(name, state).await;
        // Its first boot was given up for its timer, and the agent answers in the second.
        let _fake = FakeShim::with(&world, &row, 1, Some(ready()));
        let shim = adopt(&world, &row).await;
        let mut owner = Owner::new(world.vms().parts.clone(), row, Some(shim));
        if state == VmState::Starting {
            let operation = Operation::unwatched();
            let ready = wait::agent::wait_ready(&mut owner, &operation).await.unwrap();
            assert_eq!(ready.boot_id, "b");
            owner.record_phases(kernel_phase());
        } else {
            // Nobody can tell whether the guest was up before it was relaunched.
            owner.row.run.phases = kernel_phase();
            let status = owner.next_message().await;
            owner.apply(status);
        }
        owner.apply(first_exec());
        assert_eq!(has_exec_phase(&owner), expected, "{name}");
        // A status in place of missed messages changes nothing.
        let Some(status) = owner.shim.as_ref().map(Shim::status) else { panic!("it has a shim") };
        owner.row.run.phases = kernel_phase();
        owner.apply(ShimMessage::Status(status));
        owner.apply(first_exec());
        assert_eq!(has_exec_phase(&owner), expected, "{name}: after missed messages");
    }
}

fn first_exec() -> ShimMessage {
    ShimMessage::Guest { event: GuestEvent::Exec { asked_ms: 5, started_ms: 7 }, at_ms: 9 }
}

fn is_up() -> ShimMessage {
    ShimMessage::Guest { event: GuestEvent::Ready(ready()), at_ms: 1 }
}

fn kernel_phase() -> Vec<Phase> {
    vec![Phase { name: "kernel".into(), started_ms: 1, duration_ms: 2 }]
}

fn has_exec_phase(owner: &Owner) -> bool {
    owner.row.run.phases.iter().any(|phase| phase.name == "exec")
}
