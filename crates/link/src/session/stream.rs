//! Handle of a stream.

use super::Shared;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One byte stream of a session. `shutdown` closes its writing half; dropping it with that half open resets it.
///
/// Reads fail with `ConnectionReset` after the peer reset the stream and with `ConnectionAborted` after the session
/// ended, in both cases after everything received before was read. Writes then fail with `BrokenPipe`.
#[derive(Debug)]
pub struct Stream {
    pub(super) id: u32,
    pub(super) shared: Shared,
}

impl Stream {
    /// Returns a future that completes once the peer has reset this stream, the session has ended or this handle was
    /// dropped, which a reader that is not reading would otherwise not notice. One such future per stream is woken.
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

    /// Data is sent without a flush.
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
