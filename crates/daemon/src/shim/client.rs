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

use super::{
    claim,
    control::{
        EXIT_FILE, ExitRecord, Opened, PLAN_FILE, Planned, RUNTIME_FILE, RuntimeRecord, SOCKET, ShimMessage,
        ShimRequest, ShimStatus,
    },
    off,
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
    fmt::Write as _,
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

/// How long a shim may take from its start until its VMM runs. It does no work that grows with the VM; what this bounds
/// is a host under extreme load or a stuck disk.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that tell one launch from another.
const LAUNCH: usize = 8;
/// How long a shim that is on its way in or out may take before it is called gone.
const CHANGE_PATIENCE: Duration = Duration::from_secs(5);
/// How long one may be silent that is proven to live: its host is short of memory, or its disk is stuck. It has a VM to lose.
/// A daemon's start waits for it, and a client's first command for the daemon.
pub(crate) const SILENCE_PATIENCE: Duration = Duration::from_secs(30);
/// How often such a shim is looked at.
const CHANGE_TICK: Duration = Duration::from_millis(20);
/// What ends a scope, as at a logout: systemd sends it to every process there. TERM would end the monitor while the shim has
/// its guest power off; this one is nothing to a process that does not listen for it.
pub(super) const SCOPE_SIGNAL: &str = "SIGWINCH";
/// How long a scope may take to end, whatever is usual for the user's: the guest's time, and its monitor's.
const SCOPE_PATIENCE: Duration = off::PATIENCE.saturating_add(Duration::from_secs(10));
/// Bytes of a failed shim's stderr that are kept.
const STDERR_TAIL: usize = 4096;

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
        Self { program, environment: Vec::new(), scope: user_manager().is_some() }
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
        let mut outcome = self.start(&planned, self.scope).await?;
        if self.scope && outcome.systemd_run_failed() {
            outcome = self.start(&planned, false).await?;
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
            let patience = match alive {
                Some(_) => SILENCE_PATIENCE,
                None if runtime.is_err() || claim::is_taken(state_dir) => CHANGE_PATIENCE,
                None => Duration::ZERO,
            };
            let passed = began.elapsed();
            if passed >= patience {
                // An exit record written between the look above and the shim's death still counts.
                return match (record::read(state_dir, EXIT_FILE), alive, runtime) {
                    (Ok(Some(exit)), ..) => Ok(Adopted::Ended(exit)),
                    (_, Some(shim), _) => Ok(Adopted::Silent { shim, waited: patience }),
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
                && passed >= CHANGE_PATIENCE
                && !std::mem::replace(&mut said, true)
            {
                tracing::warn!(pid = shim.pid, "a shim lives and does not answer yet");
            }
            tokio::time::sleep(CHANGE_TICK).await;
        }
    }

    /// Runs `banger-shim --detach`, which returns when the shim it leaves behind has its VMM running or has given up.
    async fn start(&self, Planned { launch, plan }: &Planned, scope: bool) -> Result<Outcome, ShimError> {
        let mut argv: Vec<OsString> = Vec::new();
        if scope {
            let scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--slice=app.slice"];
            argv.extend(scope.map(OsString::from));
            argv.push(format!("--property=KillSignal={SCOPE_SIGNAL}").into());
            argv.push(format!("--property=TimeoutStopSec={}s", SCOPE_PATIENCE.as_secs()).into());
            argv.push(format!("--description=banger VM {}", plan.name).into());
            argv.push("--".into());
        }
        argv.extend([self.program.clone().into(), "--detach".into(), plan.state_dir.clone().into()]);
        argv.push(launch.into());
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.current_dir("/").kill_on_drop(true);
        let program_failed = |source| ShimError::Program { program: self.program.clone(), source };
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if scope && error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::no_systemd_run()),
            Err(error) => return Err(program_failed(error)),
        };
        failpoint::hit("launch.spawned").await;
        let stderr = child.stderr.take().expect("stderr was asked for");
        let ended = async { tokio::try_join!(child.wait(), tail(stderr)) };
        let (status, stderr) = timeout(START_PATIENCE, ended)
            .await
            .map_err(|_| ShimError::Slow(START_PATIENCE))?
            .map_err(program_failed)?;
        Ok(Outcome { status, stderr, scope })
    }
}

/// How `banger-shim --detach` ended.
struct Outcome {
    status: ExitStatus,
    stderr: Vec<u8>,
    scope: bool,
}

impl Outcome {
    fn no_systemd_run() -> Self {
        Self { status: ExitStatus::from_raw(1 << 8), stderr: Vec::new(), scope: true }
    }

    /// A shim marks its own words with its name; words without it are systemd-run's, and no shim was run.
    fn systemd_run_failed(&self) -> bool {
        self.scope && !self.status.success() && !self.stderr.starts_with(super::SPEAKS.as_bytes())
    }

    fn reason(&self) -> String {
        let words = String::from_utf8_lossy(&self.stderr);
        let words = words.trim();
        let words = words.strip_prefix(super::SPEAKS).unwrap_or(words).trim();
        if words.is_empty() { format!("the shim ended with {}", self.status) } else { escape(words) }
    }
}

/// Control characters made visible: a shim repeats what a VMM and a guest's console say.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        if char.is_control() && char != '\n' {
            let _ = write!(escaped, "{}", char.escape_default());
        } else {
            escaped.push(char);
        }
        escaped
    })
}

/// The last bytes of a stream that ends.
async fn tail(mut stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(kept),
            read => kept.extend_from_slice(&chunk[..read]),
        }
        let excess = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..excess);
    }
}

/// The private socket of a systemd user manager, if there is one to talk to.
fn user_manager() -> Option<PathBuf> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let socket = runtime.join("systemd/private");
    std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(socket)
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
        timeout(CHANGE_PATIENCE, settled).await.map_err(|_| ShimError::Io(io::ErrorKind::TimedOut.into()))?
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
