//! Starts a shim: runs `banger-shim --detach`, in a systemd scope of its own where a user manager answers.

use super::{
    super::{PREFIX, control::Planned, power_off},
    ShimError, Shims,
};
use crate::failpoint;
use banger_artifacts::program::escaped;
use std::{
    ffi::OsString,
    io,
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

/// Time limit for a shim from its start until its VMM runs. None of its work grows with the VM; the limit is for a host
/// under extreme load or with a stuck disk.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Signal by which systemd ends a scope, as at logout; every process in it gets the signal. SIGTERM would end the VMM
/// while the shim has its guest power off; SIGWINCH is ignored by a process that does not handle it.
const SCOPE_SIGNAL: &str = "SIGWINCH";
/// Time limit for ending a scope, independent of the user manager's default: the time for the guest, and for its VMM.
const SCOPE_TIMEOUT: Duration = power_off::TIMEOUT.saturating_add(Duration::from_secs(10));
/// Bytes kept of a failed shim's stderr.
const STDERR_TAIL: usize = 4096;

impl Shims {
    /// Runs `banger-shim --detach`, which returns when the detached shim has its VMM running or has given up.
    pub(super) async fn spawn(&self, Planned { launch, plan }: &Planned, scope: bool) -> Result<Outcome, ShimError> {
        let mut argv: Vec<OsString> = Vec::new();
        if scope {
            let scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--slice=app.slice"];
            argv.extend(scope.map(OsString::from));
            argv.push(format!("--property=KillSignal={SCOPE_SIGNAL}").into());
            argv.push(format!("--property=TimeoutStopSec={}s", SCOPE_TIMEOUT.as_secs()).into());
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
        let (status, stderr) =
            timeout(START_TIMEOUT, ended).await.map_err(|_| ShimError::Slow(START_TIMEOUT))?.map_err(program_failed)?;
        Ok(Outcome { status, stderr, scope })
    }
}

/// How `banger-shim --detach` ended.
pub(super) struct Outcome {
    pub(super) status: ExitStatus,
    stderr: Vec<u8>,
    scope: bool,
}

impl Outcome {
    fn no_systemd_run() -> Self {
        Self { status: ExitStatus::from_raw(1 << 8), stderr: Vec::new(), scope: true }
    }

    /// A shim marks its own words with its name; words without it are systemd-run's, and no shim was run.
    pub(super) fn systemd_run_failed(&self) -> bool {
        self.scope && !self.status.success() && !self.stderr.starts_with(PREFIX.as_bytes())
    }

    pub(super) fn reason(&self) -> String {
        let message = String::from_utf8_lossy(&self.stderr);
        let message = message.trim();
        let message = message.strip_prefix(PREFIX).unwrap_or(message).trim();
        if message.is_empty() { format!("the shim ended with {}", self.status) } else { escaped(message.as_bytes()) }
    }
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

/// Whether a systemd user manager answers on its private socket.
pub(super) fn has_user_manager() -> bool {
    std::env::var_os("XDG_RUNTIME_DIR")
        .is_some_and(|runtime| UnixStream::connect(PathBuf::from(runtime).join("systemd/private")).is_ok())
}
