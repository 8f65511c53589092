//! The daemon's side of the shims: start one, find one again, follow one to its end.
//!
//! Decides how a shim leaves the daemon's session and cgroup, and that every watcher sees an end: a shim that dies
//! without a word is reported as one. Refuses to know why a VM is started or what its end means for the VM's row.
//!
//! ```text
//! Shims::launch(plan)  ─► Shim ─ status() ─ events() ─ ended()      the VMM runs when launch returns
//! Shims::adopt(dirs)   ─► Running(Shim) | Ended(record) | Gone(record)
//! ```

mod awake;
mod connection;
mod ending;
mod predecessor;
mod spawn;

use super::{
    claim,
    control::{
        EXIT_FILE, ExitRecord, Opened, PLAN_FILE, Planned, RUNTIME_FILE, RuntimeRecord, SOCKET, ShimMessage,
        ShimRequest, ShimStatus,
    },
};
use crate::{
    failpoint,
    process::{ProcessIdentity, host_boot_id},
    random, record,
    vmm::plan::LaunchPlan,
};
use banger_proto::{api::vm::KillSignal, network::Publish};
use connection::{Connection, Shared};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

/// Number of random bytes in the id of a launch.
const LAUNCH: usize = 8;
/// Time limit for a shim that is starting or ending, after which it counts as gone.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a silent shim that is known to be alive: its host may be short of memory, or a disk may be stuck, and
/// its VM would be lost. The start of a daemon waits this long, and with it the first command of a client.
pub(crate) const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between attempts to reach such a shim.
const CHANGE_TICK: Duration = Duration::from_millis(20);

/// Why a shim cannot be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// A shim of this VM is still running; it should be adopted instead.
    #[error("this VM already has a running shim (pid {})", .0.pid)]
    AlreadyRunning(ProcessIdentity),
    /// The VMM of an earlier machine has not ended, and still uses the VM's disk.
    #[error("the VMM of this VM's last machine (pid {}) is not gone", .0.pid)]
    Lingering(ProcessIdentity),
    /// The shim's program could not be executed.
    #[error("cannot run {}", program.display())]
    Program {
        /// The file.
        program: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The shim gave up before the VMM ran, with the reason it reported.
    #[error("{0}")]
    NotStarted(String),
    /// The VMM did not run in time.
    #[error("the shim did not start the machine within {} s", .0.as_secs())]
    Slow(Duration),
    /// The machine has ended, so the request cannot be carried out.
    #[error("the machine has ended: {}", .0.reason)]
    Ended(ExitRecord),
    /// The port is in use, or this user may not listen on it.
    #[error("port {} cannot be published: {reason}", port.host)]
    Port {
        /// The port.
        port: Publish,
        /// The reason.
        reason: String,
    },
    /// The control socket or the VM's directory failed.
    #[error("cannot reach the shim")]
    Io(#[from] io::Error),
}

/// Starts shims, and finds running ones.
#[derive(Debug, Clone)]
pub struct Shims {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    scope: bool,
}

/// State of a shim that an earlier daemon started.
#[derive(Debug)]
pub enum Adopted {
    /// The shim is running; its VM may be starting, running or rebooting.
    Running(Shim),
    /// The machine ended while no daemon was watching.
    Ended(ExitRecord),
    /// The shim is gone without an exit record, and its VMM with it. Contains the runtime record, if the shim came as
    /// far as writing one. A shim that is still starting has to be revoked (`shim::claim`).
    Gone(Option<RuntimeRecord>),
    /// The shim is alive and does not answer.
    Silent {
        /// The process.
        shim: ProcessIdentity,
        /// Time for which an answer was awaited.
        waited: Duration,
    },
}

impl Shims {
    /// `program` is the `banger-shim` executable. Where a systemd user manager answers, each shim gets a scope of its
    /// own.
    pub fn new(program: PathBuf) -> Self {
        Self { program, environment: Vec::new(), scope: spawn::has_user_manager() }
    }

    /// Adds a variable to the environment of shims, which otherwise is that of this process. VMMs do not get it.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts a shim on this plan. Both directories must exist. On return the VMM's process is running and the control
    /// socket answers; the guest has only begun to boot. The exit record of an earlier run is removed.
    ///
    /// Cancelling this future ends what it has started.
    pub async fn launch(&self, plan: &LaunchPlan) -> Result<Shim, ShimError> {
        predecessor::await_end(&plan.state_dir).await?;
        record::remove(&plan.state_dir, EXIT_FILE)?;
        failpoint::hit("launch.forgotten").await;
        record::remove(&plan.state_dir, RUNTIME_FILE)?;
        failpoint::hit("launch.cleared").await;
        let planned = Planned { launch: random::hex(LAUNCH), plan: plan.clone() };
        record::write_volatile(&plan.state_dir, PLAN_FILE, &planned)?;
        failpoint::hit("launch.planned").await;
        let mut outcome = self.spawn(&planned, self.scope).await?;
        if self.scope && outcome.systemd_run_failed() {
            outcome = self.spawn(&planned, false).await?;
        }
        if !outcome.status.success() {
            return Err(ShimError::NotStarted(outcome.reason()));
        }
        failpoint::hit("launch.detached").await;
        match Shim::connect(&plan.run_dir, &plan.state_dir).await {
            Ok(shim) => Ok(shim),
            Err(error) => match record::read(&plan.state_dir, EXIT_FILE)? {
                Some(exit) => Err(ShimError::Ended(exit)),
                None => Err(error),
            },
        }
    }

    /// Finds the shim of a VM after a restart of the daemon or the host. Fails when it cannot be determined, not even
    /// after a while, whether the shim is running: an unreadable file proves nothing.
    pub async fn adopt(&self, run_dir: &Path, state_dir: &Path) -> Result<Adopted, ShimError> {
        let began = tokio::time::Instant::now();
        let mut warned = false;
        loop {
            let exit = record::read(state_dir, EXIT_FILE);
            if let Ok(Some(exit)) = exit {
                return Ok(Adopted::Ended(exit));
            }
            // Its record may be unreadable; the socket is tried in any case.
            let _ = wake_stopped(state_dir);
            if let Ok(shim) = Shim::connect(run_dir, state_dir).await {
                return Ok(Adopted::Running(shim));
            }
            let runtime = record::read::<RuntimeRecord>(state_dir, RUNTIME_FILE);
            let known = runtime.as_ref().ok().and_then(Option::as_ref);
            let alive = known.filter(|runtime| is_live(runtime)).map(|runtime| runtime.shim);
            let limit = match alive {
                Some(_) => SILENCE_TIMEOUT,
                None if runtime.is_err() || claim::is_taken(state_dir) => CHANGE_TIMEOUT,
                None => Duration::ZERO,
            };
            let passed = began.elapsed();
            if passed >= limit {
                // An exit record written between the check above and the death of the shim still counts.
                return match (record::read(state_dir, EXIT_FILE), alive, runtime) {
                    (Ok(Some(exit)), ..) => Ok(Adopted::Ended(exit)),
                    (_, Some(shim), _) => Ok(Adopted::Silent { shim, waited: limit }),
                    (exit, None, Ok(runtime)) => {
                        if let Err(error) = exit {
                            tracing::error!(path = %state_dir.display(), %error, "how a machine ended cannot be read");
                        }
                        Ok(Adopted::Gone(runtime))
                    }
                    (_, None, Err(error)) => Err(error.into()),
                };
            }
            if let Some(shim) = alive
                && passed >= CHANGE_TIMEOUT
                && !std::mem::replace(&mut warned, true)
            {
                tracing::warn!(pid = shim.pid, "a shim lives and does not answer yet");
            }
            tokio::time::sleep(CHANGE_TICK).await;
        }
    }
}

/// Whether the shim is running; assumed to be when it cannot be determined.
fn is_live(runtime: &RuntimeRecord) -> bool {
    host_boot_id().map_or(true, |boot| boot == runtime.host_boot_id) && !runtime.shim.is_gone()
}

/// Continues a shim that was stopped with a signal: it has a VM to lose, and would not answer otherwise.
fn wake_stopped(state_dir: &Path) -> Result<(), ShimError> {
    let runtime: Option<RuntimeRecord> = record::read(state_dir, RUNTIME_FILE)?;
    if let Some(runtime) = runtime.filter(is_live) {
        awake::wake("shim", runtime.shim);
    }
    Ok(())
}

/// Handle of a running shim. Cheap to clone; dropping it does not affect the shim.
#[derive(Debug, Clone)]
pub struct Shim {
    connection: Arc<Connection>,
}

impl Shim {
    async fn connect(run_dir: &Path, state_dir: &Path) -> Result<Self, ShimError> {
        let connection = Connection::open(run_dir.join(SOCKET), state_dir.to_owned()).await?;
        Ok(Self { connection: Arc::new(connection) })
    }

    /// The current status.
    pub fn status(&self) -> ShimStatus {
        self.shared().status()
    }

    /// Subscribes to the messages from now on. The first one is the current [`ShimMessage::Status`].
    pub fn events(&self) -> Events {
        let (status, receiver) = self.shared().subscribe();
        Events { shim: self.clone(), receiver, first: Some(status), over: false }
    }

    /// Sends a signal to the VMM. Success means that it was sent, not that the VMM dies of it.
    pub async fn signal(&self, signal: KillSignal) -> Result<(), ShimError> {
        self.connection.request(ShimRequest::Signal { signal }).await
    }

    /// Opens a port of the host.
    pub async fn publish(&self, port: Publish) -> Result<(), ShimError> {
        self.change_ports(ShimRequest::Publish { port }, port, true).await
    }

    /// Closes a port, given as it was requested.
    pub async fn unpublish(&self, port: Publish) -> Result<(), ShimError> {
        self.change_ports(ShimRequest::Unpublish { port }, port, false).await
    }

    /// Sends the request, and waits until it is carried out or refused.
    async fn change_ports(&self, request: ShimRequest, port: Publish, open: bool) -> Result<(), ShimError> {
        let mut events = self.events();
        let is_so = |published: &[Opened]| published.iter().any(|opened| opened.asked == port) == open;
        self.connection.request(request).await?;
        let settled = async {
            loop {
                match events.next().await {
                    Some(ShimMessage::Published { refused: Some(refused), .. }) if refused.asked == port => {
                        return Err(ShimError::Port { port, reason: refused.reason });
                    }
                    Some(ShimMessage::Published { published, .. }) if is_so(&published) => return Ok(()),
                    Some(ShimMessage::Status(status)) if is_so(&status.published) => return Ok(()),
                    Some(ShimMessage::Ended(record)) => return Err(ShimError::Ended(record)),
                    Some(_) => {}
                    None => return Err(ShimError::Io(io::ErrorKind::UnexpectedEof.into())),
                }
            }
        };
        timeout(CHANGE_TIMEOUT, settled).await.map_err(|_| ShimError::Io(io::ErrorKind::TimedOut.into()))?
    }

    /// Ends the VMM now. [`Shim::ended`] returns when it has.
    pub async fn end(&self) -> Result<(), ShimError> {
        let sent = self.connection.request(ShimRequest::End).await;
        failpoint::hit("end.asked").await;
        sent
    }

    /// Waits for the end of the machine. For a shim that died without a record it returns [`ExitCause::VmmFailed`],
    /// after making sure that the VMM has died too.
    ///
    /// [`ExitCause::VmmFailed`]: super::control::ExitCause::VmmFailed
    pub async fn ended(&self) -> ExitRecord {
        self.shared().ended().await
    }

    /// Remark about an end that the daemon brought about itself.
    pub fn remark(&self) -> Option<String> {
        self.shared().remark()
    }

    fn shared(&self) -> &Shared {
        self.connection.shared()
    }
}

/// The messages of a shim, in order.
#[derive(Debug)]
pub struct Events {
    shim: Shim,
    receiver: broadcast::Receiver<ShimMessage>,
    first: Option<ShimStatus>,
    over: bool,
}

impl Events {
    /// Returns the next message. The last one is always [`ShimMessage::Ended`], whatever happened to the shim; then
    /// `None`. A reader that is too slow gets the current [`ShimMessage::Status`] in place of the messages it missed.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<ShimMessage> {
        if let Some(status) = self.first.take() {
            return Some(ShimMessage::Status(status));
        }
        if self.over {
            return None;
        }
        let message = match self.receiver.recv().await {
            Ok(message) => message,
            Err(RecvError::Lagged(_)) => ShimMessage::Status(self.shim.status()),
            Err(RecvError::Closed) => ShimMessage::Ended(self.shim.ended().await),
        };
        self.over = matches!(message, ShimMessage::Ended(_));
        Some(message)
    }
}
