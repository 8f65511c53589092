//! What a driver holds of a monitor besides its process: sockets, its console, and the end of what it said.

use super::LaunchError;
use std::{io, os::fd::OwnedFd, process::ExitStatus, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{UnixStream, unix::pipe},
    task::JoinHandle,
    time::timeout,
};

/// Bytes of the end of a monitor's stderr that are kept.
const STDERR_TAIL: usize = 4096;
/// How long what an ended monitor left in its pipes may take to be read.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Our end, for the runtime, and the monitor's.
pub(super) fn socket_pair(what: &'static str) -> Result<(UnixStream, OwnedFd), LaunchError> {
    let pair = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs.into()))
    };
    pair().map_err(|source| LaunchError::Prepare { what, source })
}

/// Our end of a serial console, which never blocks, and the monitor's.
///
/// A pipe, because a monitor writes a console byte by byte: a pipe puts them together in pages, where a socket keeps each
/// as a message of its own and is full after a few hundred.
pub(super) fn console() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let pipe = || {
        let (ours, theirs) = io::pipe()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((ours.into(), theirs.into()))
    };
    pipe().map_err(|source| LaunchError::Prepare { what: "console", source })
}

/// The end of a monitor's stderr, read in the background.
#[derive(Debug)]
pub(super) struct StderrTail(JoinHandle<Vec<u8>>);

impl StderrTail {
    pub(super) fn of(stderr: io::PipeReader) -> Result<Self, LaunchError> {
        let stderr = pipe::Receiver::from_owned_fd(stderr.into())
            .map_err(|source| LaunchError::Prepare { what: "stderr", source })?;
        Ok(Self(tokio::spawn(tail(stderr))))
    }

    /// What there is when the monitor has ended. That waiting for the pipe's end is bounded all the same is for a program
    /// that is not what it should be.
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

/// What a monitor's early end is told as.
pub(super) fn ended_early(status: ExitStatus, stderr: &str) -> io::Error {
    let said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
    io::Error::other(format!("it ended ({status}){said}"))
}
