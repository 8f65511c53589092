//! Non-blocking descriptors as byte pipes of the runtime.
#![expect(unsafe_code, reason = "the runtime's promise about descriptors has to be given by hand")]

use rustix::{
    fd::OwnedFd,
    io::{Errno, read, write},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// Registers a non-blocking descriptor.
pub(super) fn pollable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor until it is dropped, and the result owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// A descriptor that is read and written.
#[derive(Debug)]
pub(super) struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        pollable(fd).map(Self)
    }

    /// Reads all available data, up to the buffer's size: one read returns one of the device's buffers, a page. The
    /// meaning of 0 depends on the descriptor.
    pub(super) fn poll_read_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let hung_up = guard.ready().is_read_closed();
            let end = loop {
                if buf.remaining() == 0 {
                    break Ok(());
                }
                match read(guard.get_inner(), buf.initialize_unfilled()) {
                    Ok(0) => break Ok(()),
                    Ok(count) => buf.advance(count),
                    Err(Errno::INTR) => {}
                    Err(error) => break Err(error),
                }
            };
            let count = buf.filled().len() - before;
            match end {
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) if count == 0 => return Poll::Ready(Err(error.into())),
                Ok(()) if count == 0 => return Poll::Ready(Ok(0)),
                // The data comes first; the end or the error will be met again.
                _ => {}
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if hung_up {
                self.reregister(cx)?;
            }
        }
    }

    /// Writes as much as there is room for. 0 means that the other end is away: the descriptor is registered again, and
    /// the other end may still be away.
    pub(super) fn poll_write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let hung_up = guard.ready().is_write_closed();
            match write(guard.get_inner(), bytes) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    if hung_up {
                        self.reregister(cx)?;
                        return Poll::Ready(Ok(0));
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Registers the descriptor again. For the runtime a hang-up is permanent, and it would retry again and again, but
    /// the other end of a device can come back.
    fn reregister(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.0 = pollable(self.0.get_ref().try_clone()?)?;
        // The waiter of the other direction was registered with the old one. It is the same task: one drives both.
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_some(cx, buf).map_ok(drop)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match ready!(self.poll_write_some(cx, bytes))? {
                0 if !bytes.is_empty() => {}
                count => return Poll::Ready(Ok(count)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
