//! The agent's server: sessions on the channel, HTTP on their streams, and announcements to the host.
//!
//! It runs on one thread, with a task for each request; only archives and `sync` use a second thread, one each, while
//! they last.

mod announce;
mod archive;
mod body;
mod connect;
mod exec;
mod http;
mod pipe;
mod pollable;
mod ports;
mod power;
mod stats;
mod vsock;
mod workspace;

use crate::{
    accounts::{Account, AccountError, Accounts},
    boot::{self, Booted, Phases},
};
use announce::Announcer;
use banger_link::{Ended, Incoming, Stream, guest};
use banger_proto::agent::{
    boot::{BootConfig, Init},
    event::{GuestEvent, Ready},
    http::API_VERSION,
    link::AGENT_PORT,
};
pub(crate) use power::ACKNOWLEDGEMENT;
use rustix::fd::OwnedFd;
use std::{
    cell::Cell,
    fs,
    os::unix::net::UnixStream,
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::{LocalSet, spawn_local};

/// Environment of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunsIn {
    /// A guest, as root, with the whole machine to itself.
    Machine,
    /// A host, as an ordinary process.
    Hosted,
}

/// Everything the server knows about the guest it serves.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) config: BootConfig,
    /// Never [`Init::Auto`].
    pub(crate) init: Init,
    pub(crate) phases: Phases,
    pub(crate) work: Option<OwnedFd>,
    pub(crate) troubles: Vec<String>,
    pub(crate) runs_in: RunsIn,
    /// Time limit for the host to record how the guest goes down.
    pub(crate) acknowledgement: Duration,
}

impl From<Booted> for Guest {
    fn from(booted: Booted) -> Self {
        let Booted { config, init, phases, work, troubles } = booted;
        Self { config, init, phases, work, troubles, runs_in: RunsIn::Machine, acknowledgement: ACKNOWLEDGEMENT }
    }
}

impl Guest {
    /// Returns the account for a command: the requested user, else the VM's, else the image's, else root.
    fn account(&self, asked: Option<&str>) -> Result<Account, AccountError> {
        self.account_in(&Accounts::read(Path::new("/etc")), asked)
    }

    fn account_in(&self, accounts: &Accounts, asked: Option<&str>) -> Result<Account, AccountError> {
        match asked.or(self.config.user.as_deref()).or(self.config.image.user.as_deref()) {
            Some(user) => accounts.resolve(user),
            None if self.runs_in == RunsIn::Hosted => {
                let own = rustix::process::geteuid().as_raw().to_string();
                Ok(accounts.resolve(&own).unwrap_or_else(|_| Account::root()))
            }
            None => Ok(accounts.resolve("root").unwrap_or_else(|_| Account::root())),
        }
    }
}

/// The byte pipe to the host.
#[derive(Debug)]
pub(crate) enum Channel {
    /// The machine's device: a vsock, or a virtio-serial port.
    Device,
    /// An inherited socket.
    Inherited(UnixStream),
}

/// State shared by the requests.
#[derive(Debug)]
struct Context {
    guest: Guest,
    boot_id: String,
    announcer: Announcer,
    /// Number of exec processes that still run.
    execs: Cell<u32>,
    /// Number of running copies and of connections into the guest.
    transfers: Arc<AtomicU32>,
    /// Number of the last exec, which names its cgroup.
    exec_number: Cell<u64>,
    /// Whether the host was told of the first exec.
    exec_announced: Cell<bool>,
    going_down: Cell<bool>,
    /// Whether the host asked for a power-off, which then takes precedence over a reboot.
    off_wanted: Cell<bool>,
}

/// A running copy or a connection into the guest, counted until it is dropped.
#[derive(Debug)]
struct InUse(Arc<AtomicU32>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Number of threads for blocking system calls. Copies occupy them as long as their client likes, so nothing that must
/// not wait for them (above all a sync) may run there; a boot test (`disk.rs`) blocks all of them and stops the guest.
const COPY_THREADS: usize = 16;

/// Serves until the channel itself ends.
pub(crate) fn run(guest: Guest, channel: Channel) -> Ended {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = match runtime.enable_all().max_blocking_threads(COPY_THREADS).build() {
        Ok(runtime) => runtime,
        Err(error) => return Ended::Pipe(error.kind()),
    };
    let ended = LocalSet::new().block_on(&runtime, serve(guest, channel));
    // A request that reads an archive may block in a system call for ever; it is not waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(guest: Guest, channel: Channel) -> Ended {
    let context = Rc::new(Context::new(guest));
    if context.guest.runs_in == RunsIn::Machine {
        spawn_local(power::on_signals(Rc::clone(&context)));
        spawn_local(announce::watch_init(Rc::clone(&context)));
    }
    let on_session = |dialer, incoming| {
        spawn_local(Rc::clone(&context).announce(dialer));
        spawn_local(Rc::clone(&context).answer(incoming));
    };
    match channel {
        Channel::Device if boot::has_vsock() => serve_vsock(on_session).await,
        Channel::Device => match pipe::Port::open(Duration::from_secs(20)).await {
            Ok(mut port) => {
                // A previous agent may have died in the middle of a session.
                let _ = guest::end_previous(&mut port).await;
                guest::run(port, on_session).await
            }
            Err(error) => {
                boot::say(&format!("the channel to the host does not open: {error}"));
                Ended::Pipe(error.kind())
            }
        },
        Channel::Inherited(stream) => {
            let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
            match stream {
                Ok(stream) => guest::run(stream, on_session).await,
                Err(error) => Ended::Pipe(error.kind()),
            }
        }
    }
}

/// Serves the host's connections one after the other.
async fn serve_vsock(mut on_session: impl FnMut(banger_link::Dialer, Incoming)) -> Ended {
    let listener = match vsock::Listener::open() {
        Ok(listener) => listener,
        Err(error) => {
            boot::say(&format!("the channel to the host does not open: {error}"));
            return Ended::Pipe(error.kind());
        }
    };
    loop {
        match listener.accept().await {
            // The connection ends with the host's process; a restored guest gets another.
            Ok(pipe) => {
                let _ended = guest::run(pipe, &mut on_session).await;
            }
            Err(error) => return Ended::Pipe(error.kind()),
        }
    }
}

impl Context {
    fn new(guest: Guest) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let ready = Ready {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: API_VERSION,
            boot_id: boot_id.clone(),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            init: guest.init,
            phases: guest.phases.list(),
        };
        let announcer = Announcer::new(&GuestEvent::Ready(ready));
        for message in &guest.troubles {
            announcer.announce(&GuestEvent::Trouble { message: message.clone() });
        }
        let last_exec = if guest.runs_in == RunsIn::Machine { exec::highest_taken() } else { 0 };
        if guest.init == Init::Agent {
            announcer.announce(&GuestEvent::Booted { state: "running".to_owned() });
        }
        Self {
            guest,
            boot_id,
            announcer,
            execs: Cell::new(0),
            transfers: Arc::default(),
            exec_number: Cell::new(last_exec),
            exec_announced: Cell::new(false),
            going_down: Cell::new(false),
            off_wanted: Cell::new(false),
        }
    }

    /// Returns the number of current uses of this guest from outside.
    fn sessions(&self) -> u32 {
        self.execs.get().saturating_add(self.transfers.load(Ordering::Relaxed))
    }

    /// Counts a copy or connection until the returned value is dropped, in any thread.
    fn in_use(&self) -> InUse {
        self.transfers.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(&self.transfers))
    }

    /// Announces events during one session.
    async fn announce(self: Rc<Self>, dialer: banger_link::Dialer) {
        self.announcer.serve(dialer).await;
    }

    /// Answers the streams of one session.
    async fn answer(self: Rc<Self>, mut incoming: Incoming) {
        while let Ok(inbound) = incoming.next().await {
            if inbound.port() != AGENT_PORT {
                spawn_local(inbound.refuse());
                continue;
            }
            let context = Rc::clone(&self);
            spawn_local(async move {
                let stream: Stream = inbound.accept().await;
                http::serve(context, stream).await;
            });
        }
    }
}

/// Reports to the host, without a full agent, that the boot failed. Gives up after a while.
pub(crate) fn send_trouble(message: &str) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let announcer = Rc::new(Announcer::empty());
    announcer.announce(&GuestEvent::Trouble { message: message.to_owned() });
    LocalSet::new().block_on(&runtime, async {
        let delivered = async {
            let served = |dialer, _| {
                let announcer = Rc::clone(&announcer);
                spawn_local(async move { announcer.serve(dialer).await });
            };
            tokio::select! {
                () = on_any_channel(served) => {}
                () = announcer.delivered() => {}
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(4), delivered).await;
    });
}

async fn on_any_channel(served: impl FnMut(banger_link::Dialer, Incoming)) {
    if boot::has_vsock() {
        serve_vsock(served).await;
    } else if let Ok(port) = pipe::Port::open(Duration::from_secs(2)).await {
        guest::run(port, served).await;
    }
}
