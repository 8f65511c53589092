//! Moves bytes between a session's state and its pipe.

use super::{
    Ended, Shared,
    parse::{Broken, Parser},
};
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the buffer one read of the pipe goes to, in bytes.
const READ: usize = 32 << 10;
/// Rounds of reading and writing before the other tasks get a turn.
const ROUNDS: usize = 16;

/// The engine of one session: nothing moves unless [`Driver::run`] is polled, and dropping it ends the session.
#[derive(Debug)]
pub struct Driver<P> {
    pipe: Option<P>,
    shared: Shared,
    parser: Parser,
    /// What the handshake read beyond its end.
    early: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    buffer: Box<[u8]>,
}

/// What is left of a session that ended.
#[derive(Debug)]
pub(crate) struct Remains<P> {
    pub(crate) reason: Ended,
    pub(crate) pipe: P,
    /// Read from the pipe and not understood: the next handshake starts with it.
    pub(crate) rest: Vec<u8>,
}

impl<P: AsyncRead + AsyncWrite + Unpin> Driver<P> {
    pub(crate) fn new(pipe: P, shared: Shared, parser: Parser, early: Vec<u8>, out: Vec<u8>) -> Self {
        Self { pipe: Some(pipe), shared, parser, early, out, sent: 0, buffer: vec![0; READ].into_boxed_slice() }
    }

    /// Drives the session until it ends; every handle then fails with the reason.
    pub async fn run(self) -> Ended {
        self.finish().await.reason
    }

    pub(crate) async fn finish(mut self) -> Remains<P> {
        let Broken { reason, rest } = poll_fn(|cx| self.poll(cx)).await;
        self.shared.lock().end(&reason);
        let pipe = self.pipe.take().expect("the pipe leaves only here");
        Remains { reason, pipe, rest }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let early = std::mem::take(&mut self.early);
        if let Err(broken) = self.parser.feed(&early, &mut self.shared.lock()) {
            return Poll::Ready(broken);
        }
        for _ in 0..ROUNDS {
            let wrote = self.poll_out(cx);
            let read = self.poll_in(cx);
            match (wrote, read) {
                (Poll::Ready(Err(broken)), _) | (_, Poll::Ready(Err(broken))) => return Poll::Ready(broken),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One write to the pipe; pending when there is nothing to write or the pipe takes nothing.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
            self.shared.lock().fill(&mut self.out, cx.waker());
            if self.out.is_empty() {
                return Poll::Pending;
            }
        }
        let pipe = self.pipe.as_mut().expect("the pipe leaves only at the end");
        match ready!(Pin::new(&mut *pipe).poll_write(cx, &self.out[self.sent..])) {
            Ok(0) => Poll::Ready(Err(broken(Ended::Closed))),
            Ok(count) => {
                self.sent += count;
                // A pipe with a buffer of its own gets one chance to send; the next round comes back to it.
                match Pin::new(pipe).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(broken(Ended::Pipe(error.kind())))),
                    _ => Poll::Ready(Ok(())),
                }
            }
            Err(error) => Poll::Ready(Err(broken(Ended::Pipe(error.kind())))),
        }
    }

    /// One read of the pipe.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let pipe = self.pipe.as_mut().expect("the pipe leaves only at the end");
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match ready!(Pin::new(pipe).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => Poll::Ready(Err(broken(Ended::Closed))),
            Ok(()) => Poll::Ready(self.parser.feed(buffer.filled(), &mut self.shared.lock())),
            Err(error) => Poll::Ready(Err(broken(Ended::Pipe(error.kind())))),
        }
    }
}

impl<P> Drop for Driver<P> {
    fn drop(&mut self) {
        self.shared.lock().end(&Ended::Dropped);
    }
}

fn broken(reason: Ended) -> Broken {
    Broken { reason, rest: Vec::new() }
}
