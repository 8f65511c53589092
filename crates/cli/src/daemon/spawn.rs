//! Starts `bangerd` in a session of its own and waits until it is ready.
#![expect(
    unsafe_code,
    reason = "code between fork and exec; the runtime wants a promise that a watched descriptor stays open"
)]

use crate::exit::{Result, internal};
use banger_proto::{
    api::host::{EXIT_LOCK_HELD, READY_LINE},
    failure::{Code, Failure},
    layout::Layout,
};
use rustix::{
    fs::MemfdFlags,
    io::FdFlags,
    pipe::PipeFlags,
    process::{Pid, PidfdFlags},
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, Interest, unix::AsyncFd},
    net::unix::pipe::Receiver,
};

/// Time limit for a daemon to become ready: it first looks for its VMs, and waits for a silent shim and its guest.
pub(super) const READY_DEADLINE: Duration = Duration::from_secs(90);
/// Time limit for a daemon that closed its end of the pipe to exit.
const EXIT_DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of the daemon's messages before it is ready.
const MAX_MESSAGE: u64 = 64 << 10;

/// Result of starting a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spawned {
    /// The daemon is ready.
    Ready,
    /// Another daemon holds the lock, so this one exited.
    LockHeld,
}

/// Starts `bangerd` and waits for its readiness message.
pub(crate) async fn spawn(layout: &Layout) -> Result<Spawned> {
    let program = find_program()?;
    let broken = |error: io::Error| internal("cannot prepare to start the daemon", &error);
    let (ready, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| broken(error.into()))?;
    // A file, not a pipe: the pipe would have no reader once the daemon is ready, and a write to it would fail.
    let errors: File =
        rustix::fs::memfd_create("bangerd-stderr", MemfdFlags::CLOEXEC).map_err(|error| broken(error.into()))?.into();
    let child = launch(&program, theirs, errors.try_clone().map_err(broken)?).map_err(|error| {
        Failure::caused_by(Code::Unavailable, format!("cannot start {}", program.display()), &error)
    })?;
    let ready = Receiver::from_owned_fd(ready).map_err(broken)?;
    let message = tokio::time::timeout(READY_DEADLINE, read_message(ready)).await.map_err(|_| {
        Failure::new(Code::Timeout, format!("the daemon did not serve within {} s", READY_DEADLINE.as_secs()))
            .hint(format!("its log is {}", layout.daemon_log().display()))
    })?;
    if message == READY_LINE.as_bytes() {
        return Ok(Spawned::Ready);
    }
    let status = wait(child).await?;
    if status.code() == Some(i32::from(EXIT_LOCK_HELD)) {
        return Ok(Spawned::LockHeld);
    }
    Err(explain(&message, &stderr_tail(errors), status, layout).into())
}

/// Finds `bangerd` beside this program, else in `PATH`.
pub(crate) fn find_program() -> Result<PathBuf> {
    const NAME: &str = "bangerd";
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(NAME));
    beside.iter().cloned().chain(in_path).find(|program| is_executable(program)).ok_or_else(|| {
        let place = beside.as_deref().and_then(Path::parent).unwrap_or(Path::new("?")).display().to_string();
        Failure::new(Code::Unavailable, "cannot find bangerd, the daemon banger needs")
            .cause(format!("it is neither in {place}, where banger is, nor in PATH"))
            .hint("install bangerd beside banger, or add its directory to PATH")
            .into()
    })
}

/// Whether `program` is a file with an execute permission.
pub(crate) fn is_executable(program: &Path) -> bool {
    program.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Starts the daemon in its own session, in `/`, with the write end of the pipe as its only other descriptor.
fn launch(program: &Path, ready: OwnedFd, errors: File) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args([OsStr::new("--ready-fd"), OsStr::new(&ready.as_raw_fd().to_string())])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    // SAFETY: between fork and exec the closure makes two system calls and touches no memory but its own descriptor,
    // which it owns.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            rustix::io::fcntl_setfd(&ready, FdFlags::empty())?;
            Ok(())
        });
    }
    // The command owns the closure and thereby this process's copy of the write end; both are dropped here.
    command.spawn()
}

/// Reads up to the first line feed or the end of file.
async fn read_message(ready: Receiver) -> Vec<u8> {
    let mut message = Vec::new();
    let mut ready = ready.take(MAX_MESSAGE);
    while !message.ends_with(b"\n") {
        match ready.read_buf(&mut message).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    message
}

/// Waits for the exit of a daemon that said it cannot serve.
async fn wait(mut child: Child) -> Result<ExitStatus> {
    let pid = child.id();
    let ended = async {
        // The child was not waited for yet, so the pid still belongs to it.
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        // SAFETY: the descriptor is ours and stays open for longer than its registration.
        let watched = unsafe { AsyncFd::register_with_interest(pidfd.as_fd(), Interest::READABLE) }?;
        let _ = watched.readable().await?;
        child.wait()
    };
    match tokio::time::timeout(EXIT_DEADLINE, ended).await {
        Ok(status) => status.map_err(|error| internal("cannot wait for the daemon", &error)),
        Err(_) => {
            Err(Failure::new(Code::Timeout, format!("the daemon (pid {pid}) did not come up, and did not exit")).into())
        }
    }
}

/// Returns the end of the daemon's stderr.
fn stderr_tail(mut errors: File) -> String {
    let mut text = Vec::new();
    let start = errors.metadata().map_or(0, |file| file.len().saturating_sub(MAX_MESSAGE));
    let read = errors.seek(io::SeekFrom::Start(start)).and_then(|_| errors.read_to_end(&mut text));
    read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&text).trim().to_owned())
}

/// Builds the failure of a daemon that does not serve, from its own message or else from its stderr.
fn explain(message: &[u8], errors: &str, status: ExitStatus, layout: &Layout) -> Failure {
    if let Ok(failure) = serde_json::from_slice::<Failure>(message) {
        return failure;
    }
    let failure = Failure::new(Code::Unavailable, format!("the daemon ended before it served ({status})"))
        .hint(format!("its log is {}", layout.daemon_log().display()));
    if errors.is_empty() { failure } else { failure.cause(errors) }
}
