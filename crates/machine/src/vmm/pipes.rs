//! The pipes and sockets between a driver and its VMM: socket pairs, the serial console, the tail of stderr.

use super::LaunchError;
use std::{io, os::fd::OwnedFd, process::ExitStatus, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{UnixStream, unix::pipe},
    task::JoinHandle,
    time::timeout,
};

/// Bytes kept of the end of a VMM's stderr.
const STDERR_TAIL: usize = 4096;
/// Upper bound for draining the pipes of a VMM that has ended.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a socket pair: our end, registered with the runtime, and the VMM's.
pub(super) fn socket_pair(what: &'static str) -> Result<(UnixStream, OwnedFd), LaunchError> {
    let pair = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs.into()))
    };
    pair().map_err(|source| LaunchError::Prepare { what, source })
}

/// Makes the pipe of a serial console: our non-blocking read end, and the VMM's write end.
///
/// A pipe rather than a socket, because a VMM writes its console byte by byte: a pipe merges the bytes into pages,
/// whereas a socket keeps each one as a message of its own and is full after a few hundred.
pub(super) fn console() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let pipe = || {
        let (ours, theirs) = io::pipe()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((ours.into(), theirs.into()))
    };
    pipe().map_err(|source| LaunchError::Prepare { what: "console", source })
}

/// The tail of a VMM's stderr, read by a background task.
#[derive(Debug)]
pub(super) struct StderrTail(JoinHandle<Vec<u8>>);

impl StderrTail {
    pub(super) fn of(stderr: io::PipeReader) -> Result<Self, LaunchError> {
        let stderr = pipe::Receiver::from_owned_fd(stderr.into())
            .map_err(|source| LaunchError::Prepare { what: "stderr", source })?;
        Ok(Self(tokio::spawn(tail(stderr))))
    }

    /// Returns the tail once the VMM has ended. Waiting for the end of the pipe is bounded: a program that is
    /// not the expected VMM may have left it open in another process.
    pub(super) async fn read(&mut self) -> String {
        let bytes = timeout(DRAIN_TIMEOUT, &mut self.0).await.ok().and_then(Result::ok).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

async fn tail(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        let excess = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..excess);
    }
    kept
}

/// Error for a VMM that ended during its start.
pub(super) fn ended_early(status: ExitStatus, stderr: &str) -> io::Error {
    let suffix = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
    io::Error::other(format!("it ended ({status}){suffix}"))
}
