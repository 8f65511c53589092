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
pub(super) use spawn::SCOPE_SIGNAL;
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

/// Bytes that tell one launch from another.
const LAUNCH: usize = 8;
/// How long a shim that is on its way in or out may take before it is called gone.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one may be silent that is proven to live: its host is short of memory, or its disk is stuck. It has a VM to lose.
/// A daemon's start waits for it, and a client's first command for the daemon.
pub(crate) const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often such a shim is looked at.
const CHANGE_TICK: Duration = Duration::from_millis(20);

/// Why a shim cannot be started or talked to.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// One of this VM's shims still runs: adopt it instead.
    #[error("this VM already has a running shim (pid {})", .0.pid)]
    AlreadyRunning(ProcessIdentity),
    /// The VMM of an earlier machine has not ended, and has the VM's disk.
    #[error("the VMM of this VM's last machine (pid {}) is not gone", .0.pid)]
    Lingering(ProcessIdentity),
    /// The shim's program could not be run at all.
    #[error("cannot run {}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The shim gave up before the VMM ran, and this is why, in its own words.
    #[error("{0}")]
    NotStarted(String),
    /// It did not get the VMM to run in time.
    #[error("the shim did not start the machine within {} s", .0.as_secs())]
    Slow(Duration),
    /// Its machine has ended, so there is nobody to ask.
    #[error("the machine has ended: {}", .0.reason)]
    Ended(ExitRecord),
    /// The port is somebody else's, or not this user's to take.
    #[error("port {} cannot be published: {reason}", port.host)]
    Port {
        /// Which.
        port: Publish,
        /// Why.
        reason: String,
    },
    /// The control socket or the VM's directory failed.
    #[error("cannot reach the shim")]
    Io(#[from] io::Error),
}

/// Starts and finds shims.
#[derive(Debug, Clone)]
pub struct Shims {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    scope: bool,
}

/// What became of a shim that an earlier daemon started.
#[derive(Debug)]
pub enum Adopted {
    /// It runs; its VM may be starting, running or rebooting.
    Running(Shim),
    /// Its machine ended while nobody watched.
    Ended(ExitRecord),
    /// It is not there and left no word how its machine ended; the VMM died with it. What it wrote about itself, if it
    /// came that far. One that is still on its way to be there has to be revoked (`shim::claim`).
    Gone(Option<RuntimeRecord>),
    /// It lives and does not answer.
    Silent {
        /// Who.
        shim: ProcessIdentity,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl Shims {
    /// `program` is the `banger-shim` executable. Shims get a scope of their own where a systemd user manager answers.
    pub fn new(program: PathBuf) -> Self {
        Self { program, environment: Vec::new(), scope: spawn::has_user_manager() }
    }

    /// Adds a variable to what shims get from this process's own environment. Their VMMs get none of it.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts a shim on this plan. Both directories must exist. When this returns the VMM's process runs and the control
    /// socket answers; the guest has only begun to boot. An exit record of an earlier run is removed.
    ///
    /// Cancelling before it returns ends what was started.
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

    /// Finds the shim of a VM again, after this daemon or the host was restarted. An error is that it cannot be told whether
    /// it runs, not even after a while: a file that cannot be read is no proof of anything.
    pub async fn adopt(&self, run_dir: &Path, state_dir: &Path) -> Result<Adopted, ShimError> {
        let began = tokio::time::Instant::now();
        let mut said = false;
        loop {
            let exit = record::read(state_dir, EXIT_FILE);
            if let Ok(Some(exit)) = exit {
                return Ok(Adopted::Ended(exit));
            }
            // What it goes by may be unreadable: the socket is asked all the same.
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
                // An exit record written between the look above and the shim's death still counts.
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
                && !std::mem::replace(&mut said, true)
            {
                tracing::warn!(pid = shim.pid, "a shim lives and does not answer yet");
            }
            tokio::time::sleep(CHANGE_TICK).await;
        }
    }
}

/// Whether it runs. What cannot be looked at is taken to.
fn is_live(runtime: &RuntimeRecord) -> bool {
    host_boot_id().map_or(true, |boot| boot == runtime.host_boot_id) && !runtime.shim.is_gone()
}

/// Has a shim go on that somebody stopped: it has a VM to lose, and nothing else would make it answer.
fn wake_stopped(state_dir: &Path) -> Result<(), ShimError> {
    let runtime: Option<RuntimeRecord> = record::read(state_dir, RUNTIME_FILE)?;
    if let Some(runtime) = runtime.filter(is_live) {
        awake::wake("shim", runtime.shim);
    }
    Ok(())
}

/// One running shim. Cheap to clone; dropping it does nothing to the shim.
#[derive(Debug, Clone)]
pub struct Shim {
    connection: Arc<Connection>,
}

impl Shim {
    async fn connect(run_dir: &Path, state_dir: &Path) -> Result<Self, ShimError> {
        let connection = Connection::open(run_dir.join(SOCKET), state_dir.to_owned()).await?;
        Ok(Self { connection: Arc::new(connection) })
    }

    /// What is known now.
    pub fn status(&self) -> ShimStatus {
        self.shared().status()
    }

    /// Everything from now on. The first message is the present [`ShimMessage::Status`].
    pub fn events(&self) -> Events {
        let (status, receiver) = self.shared().subscribe();
        Events { shim: self.clone(), receiver, first: Some(status), over: false }
    }

    /// Sends a signal to the VMM. That it was sent is no promise that the VMM dies of it.
    pub async fn signal(&self, signal: KillSignal) -> Result<(), ShimError> {
        self.connection.request(ShimRequest::Signal { signal }).await
    }

    /// Opens a port of the host.
    pub async fn publish(&self, port: Publish) -> Result<(), ShimError> {
        self.change_ports(ShimRequest::Publish { port }, port, true).await
    }

    /// Closes one, as it was asked for.
    pub async fn unpublish(&self, port: Publish) -> Result<(), ShimError> {
        self.change_ports(ShimRequest::Unpublish { port }, port, false).await
    }

    /// Asks, and waits until it is so or was refused.
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

    /// Ends the VMM now. [`Shim::ended`] says when it has.
    pub async fn end(&self) -> Result<(), ShimError> {
        let asked = self.connection.request(ShimRequest::End).await;
        failpoint::hit("end.asked").await;
        asked
    }

    /// Waits for the machine's end. Of a shim that died without a record it says so, as [`ExitCause::VmmFailed`]: its
    /// VMM died with it, which has been made sure of.
    ///
    /// [`ExitCause::VmmFailed`]: super::control::ExitCause::VmmFailed
    pub async fn ended(&self) -> ExitRecord {
        self.shared().ended().await
    }

    /// What there is to say about an end that was none by itself: the daemon brought it about.
    pub(crate) fn remark(&self) -> Option<String> {
        self.shared().remark()
    }

    fn shared(&self) -> &Shared {
        self.connection.shared()
    }
}

/// A shim's messages, in order.
#[derive(Debug)]
pub struct Events {
    shim: Shim,
    receiver: broadcast::Receiver<ShimMessage>,
    first: Option<ShimStatus>,
    over: bool,
}

impl Events {
    /// The next message. The last one is [`ShimMessage::Ended`], whatever became of the shim; `None` after it. A reader
    /// that is too slow gets the present [`ShimMessage::Status`] in place of what it missed. Cancelling loses nothing.
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
