//! Agents played by the test: they answer late, vanish for a moment, or refuse.

use super::{
    machine::{FakeShim, adopt, wait_for_event},
    *,
};
use crate::{
    operation::BACKLOG,
    vm::{StopCause, agent::Agent, owner::Owner, stop},
};
use banger_link::vsock;
use banger_machine::shim::control::VSOCK;
use banger_proto::{
    agent::{event::Power, http::Shutdown},
    failure::Failure,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

/// Socket on which a VM's agent is dialled.
pub(super) struct FakeAgent(UnixListener);

impl FakeAgent {
    pub(super) fn of(world: &World, row: &VmRow) -> Self {
        Self(UnixListener::bind(world.layout.vm_run(&row.id).join(VSOCK)).unwrap())
    }

    /// Reads the next request, which has a JSON body, and does not answer it.
    pub(super) async fn request(&self) -> UnixStream {
        let (mut stream, _) = timeout(SOON, self.0.accept()).await.expect("it is asked").unwrap();
        assert_eq!(vsock::server_port(&mut stream).await.unwrap(), Some(1024));
        vsock::server_accept(&mut stream, 1).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream
    }

    /// Answers the next request.
    pub(super) async fn answer(&self, status: &str, body: &str) {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.request().await.write_all(answer.as_bytes()).await.unwrap();
    }

    /// Refuses the next request.
    pub(super) async fn refuse(&self, code: Code, message: &str) {
        let refusal = serde_json::to_string(&Failure::new(code, message)).unwrap();
        self.answer("500 Internal Server Error", &refusal).await;
    }
}

/// A running VM with a fake shim and a fake agent.
pub(super) struct Running {
    pub(super) row: VmRow,
    /// Has adopted the machine, as a daemon's VM task does.
    pub(super) owner: Owner,
    pub(super) fake: FakeShim,
    pub(super) agent: FakeAgent,
}

impl World {
    pub(super) async fn running(&self, name: &str) -> Running {
        let mut row = self.vm(name, VmState::Running).await;
        row.run.agent_api = Some(1);
        let fake = FakeShim::of(self, &row);
        let shim = adopt(self, &row).await;
        let agent = FakeAgent::of(self, &row);
        let owner = Owner::new(self.vms().parts.clone(), row.clone(), Some(shim));
        Running { row, owner, fake, agent }
    }
}

/// Ways in which an agent may be absent.
#[derive(Debug, Clone, Copy)]
enum Absence {
    /// Its shim is making its sockets anew.
    Unreachable,
    /// The agent has no session with the host.
    Away,
    /// The agent died after it had read the request.
    Dead,
}

#[tokio::test]
async fn an_agent_that_is_gone_for_a_moment_is_asked_again_and_nothing_is_ended_by_force() {
    let world = World::new();
    for gone in [Absence::Unreachable, Absence::Away, Absence::Dead] {
        let mut row = world.vm(&format!("{gone:?}").to_lowercase(), VmState::Running).await;
        row.run.agent_api = Some(1);
        let mut fake = FakeShim::of(&world, &row);
        let shim = adopt(&world, &row).await;
        let (lines, mut said) = mpsc::channel(BACKLOG);
        let operation = Operation::watched(lines);
        let mut owner = Owner::new(world.vms().parts.clone(), row.clone(), Some(shim));
        let record = ExitRecord { cause: ExitCause::Poweroff, reason: "the guest powered off".into(), at: 1 };
        let comes_back = async {
            let mut agent = None;
            match gone {
                Absence::Unreachable => {}
                Absence::Away => drop(agent.insert(FakeAgent::of(&world, &row)).0.accept().await.unwrap()),
                Absence::Dead => drop(agent.insert(FakeAgent::of(&world, &row)).request().await),
            }
            wait_for_event(&mut said, "it is asked again").await;
            agent.unwrap_or_else(|| FakeAgent::of(&world, &row)).answer("202 Accepted", "").await;
            wait_for_event(&mut said, "waiting for the guest to power off").await;
            fake.end(&world, &row, &record).await;
        };
        let (stopped, ()) = tokio::join!(stop::stop(&mut owner, &operation, Some(SOON), StopCause::Asked), comes_back);
        stopped.unwrap();
        let now = world.row(&row).await.unwrap();
        assert_eq!((now.state, now.reason), (VmState::Stopped, None), "{gone:?}");
        assert!(fake.requests.try_recv().is_err(), "{gone:?}: it was ended by force");
    }
}

#[tokio::test]
async fn an_agent_that_never_comes_is_not_called_silent() {
    let world = World::new();
    let row = world.vm("v", VmState::Running).await;
    let agent = Agent::of(&world.layout, &row.id);
    let body = Shutdown { verb: Power::Poweroff, grace_ms: 0 };
    let mut times = 0;
    let failure = agent.shutdown(&body, Duration::from_millis(250), |_| times += 1).await.unwrap_err();
    assert_eq!((failure.code, times), (Code::Guest, 1), "{failure}");
    assert!(failure.to_string().starts_with("the guest's agent does not answer to /shutdown: "), "{failure}");
}

#[tokio::test]
async fn what_a_guest_says_fills_no_row() {
    let world = World::new();
    let Running { row, mut owner, mut fake, agent } = world.running("v").await;
    let record = ExitRecord { cause: ExitCause::Ended, reason: "ended by the daemon".into(), at: 1 };
    let refuses = async {
        agent.refuse(Code::Unavailable, &"\u{7f}".repeat(1 << 20)).await;
        assert_eq!(fake.requests.recv().await, Some(banger_machine::shim::control::ShimRequest::End));
        fake.end(&world, &row, &record).await;
    };
    let operation = Operation::unwatched();
    let (stopped, ()) = tokio::join!(stop::stop(&mut owner, &operation, None, StopCause::Asked), refuses);
    stopped.unwrap();
    let reason = world.row(&row).await.unwrap().reason.unwrap();
    assert!(reason.starts_with("the guest cannot be asked to power off: the guest's agent refused /shutdown: \\u{7f}"));
    assert!(reason.len() < 1000, "{} bytes", reason.len());
}
