//! The engine and a machine whose shim is played by the test.

use super::*;
use crate::{
    shim::{
        client::{Adopted, Shim},
        control::{Opened, SOCKET, ShimMessage, ShimRequest, ShimStatus},
    },
    vm::{owner::Owner, stop},
};
use banger_proto::{api::vm::KillSignal, framing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

/// A shim whose guest's agent has not answered. It publishes what it is told to, and says what it was asked for.
struct FakeShim {
    process: Victim,
    requests: mpsc::UnboundedReceiver<ShimRequest>,
    serving: tokio::task::JoinHandle<()>,
}

impl FakeShim {
    fn of(world: &World, row: &VmRow) -> Self {
        let process = Victim::new();
        world.record(row, RUNTIME_FILE, &runtime(process.identity()));
        let socket = world.layout.vm_run(&row.id).join(SOCKET);
        fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let status = ShimStatus {
            version: String::new(),
            shim: process.identity(),
            vmm: None,
            ready: None,
            booted: None,
            console_bytes: 0,
            vmm_started_ms: None,
            ready_ms: None,
            relaunches: 1,
            unconfined: None,
            published: Vec::new(),
        };
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The daemon hanging up is its end.
                let _ = serve(stream, status.clone(), &sender).await;
            }
        });
        Self { process, requests, serving }
    }

    /// Is gone, with this as its last word.
    async fn end(&mut self, world: &World, row: &VmRow, record: &ExitRecord) {
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
    requests: &mpsc::UnboundedSender<ShimRequest>,
) -> std::io::Result<()> {
    let say = |message: ShimMessage| framing::encode(&message).unwrap();
    stream.write_all(&say(ShimMessage::Status(status))).await?;
    loop {
        let mut header = [0; framing::HEADER];
        stream.read_exact(&mut header).await?;
        let mut body = vec![0; framing::body_length(header).unwrap()];
        stream.read_exact(&mut body).await?;
        let request = framing::decode(&body).unwrap();
        if let ShimRequest::Publish { port } = request {
            let published = vec![Opened { asked: port, at: port }];
            stream.write_all(&say(ShimMessage::Published { published, refused: None })).await?;
        }
        let _ = requests.send(request);
    }
}

async fn adopt(world: &World, row: &VmRow) -> Shim {
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
