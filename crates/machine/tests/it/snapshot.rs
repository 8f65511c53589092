//! A machine is saved through a descriptor, and two machines continue from there, each with its own copy of the memory.

use crate::machine::{Kind, Setup, health_in, soon};
use banger_link::{Dialer, HostSession};
use banger_machine::vmm::{Channel, Driver, Machine, Resources, Start, memory::Memory, plan::LaunchPlan, qemu::Qemu};
use banger_proto::agent::{
    event::GuestEvent,
    http::Health,
    link::{AGENT_PORT, EVENTS_PORT},
};
use rustix::process::Signal;
use std::{fs::File, io::Seek, os::fd::OwnedFd, time::Instant};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    task::JoinHandle,
};

/// A session with a machine's guest, driven in the background, while the machine's console is drained.
struct Guest {
    machine: Box<dyn Machine>,
    dialer: Dialer,
    incoming: banger_link::Incoming,
    tasks: Vec<JoinHandle<()>>,
}

impl Guest {
    async fn meet(mut machine: Box<dyn Machine>) -> Self {
        let mut console = pipe::Receiver::from_owned_fd(machine.take_console().unwrap()).unwrap();
        let drain = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut console, &mut tokio::io::sink()).await;
        });
        let Some(Channel::Pipe(pipe)) = machine.take_channel() else { panic!("QEMU's channel is a pipe") };
        let HostSession { dialer, incoming, driver } = soon("a session", HostSession::open(pipe)).await.unwrap();
        let drive = tokio::spawn(async move {
            driver.run().await;
        });
        Self { machine, dialer, incoming, tasks: vec![drain, drive] }
    }

    async fn await_ready(&mut self) {
        let inbound = soon("the events stream", self.incoming.next()).await.unwrap();
        assert_eq!(inbound.port(), EVENTS_PORT);
        let mut line = String::new();
        soon("an event", BufReader::new(inbound.accept().await).read_line(&mut line)).await.unwrap();
        assert!(matches!(serde_json::from_str(&line), Ok(GuestEvent::Ready(_))), "{line}");
    }

    async fn health(&self) -> Health {
        let mut stream = soon("a stream", self.dialer.dial(AGENT_PORT)).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        health_in(&answer)
    }

    async fn end(mut self) {
        self.machine.signal(Signal::KILL).unwrap();
        soon("the end", self.machine.ended()).await.unwrap();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A file for the device state.
fn state_file() -> (File, OwnedFd) {
    let file = tempfile::tempfile().unwrap();
    let given = file.try_clone().unwrap().into();
    (file, given)
}

async fn launch(plan: &LaunchPlan, memory: Memory, start: Start) -> Box<dyn Machine> {
    Qemu.launch(plan, Resources { memory, start, namespace: None }).await.unwrap_or_else(|error| panic!("{error:?}"))
}

#[tokio::test]
async fn two_clones_of_a_saved_machine_answer() {
    let Some(setup) = Setup::new(Kind::Qemu) else { return };
    let memory = Memory::fresh(setup.plan.memory.bytes()).unwrap();
    let saved_memory = memory.file.try_clone().unwrap();
    let mut original = Guest::meet(launch(&setup.plan, memory, Start::Kernel).await).await;
    original.await_ready().await;
    let before = original.health().await;

    let (mut state, given) = state_file();
    let power = original.machine.snapshot().expect("QEMU has snapshots");
    power.pause().await.unwrap();
    power.save(given).await.unwrap();
    let size = state.stream_position().unwrap();
    assert!((1 << 10..1 << 20).contains(&size), "{size} bytes of state: memory is not to be in it");
    // Its memory now belongs to the copies.
    original.end().await;

    let mut clones = Vec::new();
    for number in 0..2 {
        let began = Instant::now();
        // A writable disk has a single writer.
        let mut plan = setup.plan.clone();
        plan.disks[1].path = setup.plan.state_dir.join(format!("work-{number}.ext4"));
        std::fs::copy(&setup.plan.disks[1].path, &plan.disks[1].path).unwrap();
        let mut machine = launch(&plan, Memory::copy_of(saved_memory.try_clone().unwrap()), Start::Restored).await;
        // Duplicates of a descriptor share one offset.
        state.rewind().unwrap();
        let power = machine.snapshot().unwrap();
        power.restore(state.try_clone().unwrap().into()).await.unwrap();
        power.resume().await.unwrap();
        let restored = began.elapsed();
        let clone = Guest::meet(machine).await;
        let health = clone.health().await;
        eprintln!(
            "clone {number}: {size} bytes of state, restored after {restored:?}, answered after {:?}",
            began.elapsed()
        );
        assert_eq!(health.boot_id, before.boot_id, "the same boot goes on");
        assert!(health.uptime_ms >= before.uptime_ms);
        clones.push(clone);
    }
    for clone in &clones {
        clone.health().await;
    }
    for clone in clones {
        clone.end().await;
    }
}
