//! A stream's handle.

use super::Shared;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One byte stream of a session. Half-closed by `shutdown`; dropped with its writing half open it is reset.
///
/// Reads fail with `ConnectionReset` after the peer reset it and with `ConnectionAborted` after the session ended, both
/// only when everything received before was read. Writes then fail with `BrokenPipe`.
#[derive(Debug)]
pub struct Stream {
    pub(super) id: u32,
    pub(super) shared: Shared,
}

impl Stream {
    /// A future that is done once the peer has reset this stream, the session has ended or this handle was dropped: what
    /// a reader that is not reading would otherwise not notice. One of them per stream is woken.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + Unpin + 'static {
        let (id, shared) = (self.id, self.shared.clone());
        std::future::poll_fn(move |cx| shared.lock().poll_gone(id, cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let count = ready!(self.shared.lock().poll_read(self.id, cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_write(self.id, cx, bytes)
    }

    /// What was written is on its way by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().finish(self.id);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().release(self.id);
    }
}
