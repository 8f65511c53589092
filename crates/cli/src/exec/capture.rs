//! Runs commands in a guest for banger itself. The output is bounded, because the guest decides how much it is.

use super::session::{Ended, Session};
use crate::{
    exit::{Error, Result},
    guest,
    output::progress::Progress,
    progress_stream::ProgressStream,
    stall::STALL_TIMEOUT,
};
use banger_proto::{
    agent::exec::{ExecSpec, Outcome},
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use bytes::Bytes;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// Most bytes of stderr that are kept; the rest is dropped.
const MAX_STDERR: usize = 16 << 10;
/// Most bytes of stdin in one message.
const PIECE: usize = 32 << 10;

/// Outcome and output of a command.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) outcome: Outcome,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Captured {
    /// Whether the program, or something it needed, was not found.
    pub(crate) fn is_missing(&self) -> bool {
        self.outcome.code() == 127
    }
}

/// Runs `spec` without stdin. More than `limit` bytes on stdout end it as a failure of the guest, and so does an agent
/// that stops responding.
pub(crate) async fn capture(endpoint: &GuestEndpoint, spec: &ExecSpec, limit: usize) -> Result<Captured> {
    capture_with_progress(endpoint, spec, limit, None).await
}

/// Same as [`capture`], with stdin.
pub(crate) async fn capture_with_stdin(
    endpoint: &GuestEndpoint,
    spec: &ExecSpec,
    stdin: &[u8],
    limit: usize,
) -> Result<Captured> {
    let pieces = stdin.chunks(PIECE);
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        let _ = sender.try_send(Bytes::copy_from_slice(piece));
    }
    drop(sender);
    capture_from(endpoint, spec, receiver, limit, None).await
}

/// Same as [`capture`], and shows how much has arrived.
pub(crate) async fn capture_with_progress(
    endpoint: &GuestEndpoint,
    spec: &ExecSpec,
    limit: usize,
    progress: Option<&mut Progress<'_>>,
) -> Result<Captured> {
    // A channel without a sender: no stdin.
    let (_, stdin) = mpsc::channel(1);
    capture_from(endpoint, spec, stdin, limit, progress).await
}

async fn capture_from(
    endpoint: &GuestEndpoint,
    spec: &ExecSpec,
    stdin: mpsc::Receiver<Bytes>,
    limit: usize,
    progress: Option<&mut Progress<'_>>,
) -> Result<Captured> {
    let session = Session::start(guest::call(endpoint).await?, spec).await?;
    capture_session(session, stdin, limit, progress, async || guest::responds(endpoint).await).await
}

/// Captures the output of a started session; `responds` asks whether its agent is alive.
pub(crate) async fn capture_session<S: AsyncRead + AsyncWrite + Unpin>(
    session: Session<S>,
    stdin: mpsc::Receiver<Bytes>,
    limit: usize,
    progress: Option<&mut Progress<'_>>,
    responds: impl AsyncFn() -> bool,
) -> Result<Captured> {
    // No signals are sent.
    let (_, control) = mpsc::unbounded_channel();
    let mut stdout = Bounded { bytes: Vec::new(), limit, refuses: true, refused: false, progress };
    let mut stderr = Bounded { bytes: Vec::new(), limit: MAX_STDERR, refuses: false, refused: false, progress: None };
    let (out, err) = (ProgressStream::new(&mut stdout), ProgressStream::new(&mut stderr));
    let outputs = [out.last_write(), err.last_write()];
    let running = session.run(stdin, control, out, err);
    let ended = STALL_TIMEOUT.supervise(running, &outputs, responds).await;
    if stdout.refused {
        return Err(Failure::new(Code::Guest, format!("the guest sent more than {limit} bytes")).into());
    }
    match ended? {
        Ended::Outcome(outcome) => Ok(Captured {
            outcome,
            stdout: stdout.bytes,
            stderr: String::from_utf8_lossy(&stderr.bytes).trim().to_owned(),
        }),
        Ended::ClosedPipe | Ended::Abandoned(_) => {
            Err(Error::Failed(Failure::new(Code::Internal, "a session of banger's own was given up")))
        }
    }
}

/// A bounded buffer.
struct Bounded<'a, 'b> {
    bytes: Vec<u8>,
    limit: usize,
    /// Whether more than the limit is an error, or dropped.
    refuses: bool,
    refused: bool,
    progress: Option<&'a mut Progress<'b>>,
}

impl AsyncWrite for Bounded<'_, '_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = self.limit - self.bytes.len();
        if bytes.len() > room && self.refuses {
            self.refused = true;
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let done = self.bytes.len() as u64;
        if let Some(progress) = &mut self.progress {
            progress.advance(done, None);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn what_is_kept_has_an_end() {
        let mut strict = Bounded { bytes: vec![], limit: 4, refuses: true, refused: false, progress: None };
        strict.write_all(b"abcd").await.unwrap();
        assert!(strict.write_all(b"e").await.is_err() && strict.refused);
        let mut lenient = Bounded { bytes: vec![], limit: 4, refuses: false, refused: false, progress: None };
        lenient.write_all(b"abcdef").await.unwrap();
        assert_eq!((lenient.bytes.as_slice(), lenient.refused), (b"abcd".as_slice(), false));
    }
}
