//! Moves bytes between a session's state and its pipe.

use super::{
    Ended, Shared,
    parse::{ParseError, Parser},
};
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the read buffer, in bytes.
const READ: usize = 32 << 10;
/// Rounds of reading and writing before the driver yields to other tasks.
const ROUNDS: usize = 16;

/// The driver of one session: nothing moves unless [`Driver::run`] is polled, and dropping it ends the session.
#[derive(Debug)]
pub struct Driver<P> {
    pipe: Option<P>,
    shared: Shared,
    parser: Parser,
    /// Bytes that the handshake read beyond its end.
    prefetched: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    buffer: Box<[u8]>,
}

/// The remainder of a session that ended.
#[derive(Debug)]
pub(crate) struct Remainder<P> {
    pub(crate) reason: Ended,
    pub(crate) pipe: P,
    /// Bytes read from the pipe and not understood; the next handshake starts with them.
    pub(crate) rest: Vec<u8>,
}

impl<P: AsyncRead + AsyncWrite + Unpin> Driver<P> {
    pub(crate) fn new(pipe: P, shared: Shared, parser: Parser, prefetched: Vec<u8>, out: Vec<u8>) -> Self {
        Self { pipe: Some(pipe), shared, parser, prefetched, out, sent: 0, buffer: vec![0; READ].into_boxed_slice() }
    }

    /// Drives the session until it ends; every handle then fails with the returned reason.
    pub async fn run(self) -> Ended {
        self.finish().await.reason
    }

    pub(crate) async fn finish(mut self) -> Remainder<P> {
        let ParseError { reason, rest } = poll_fn(|cx| self.poll(cx)).await;
        self.shared.lock().end(&reason);
        let pipe = self.pipe.take().expect("the pipe leaves only here");
        Remainder { reason, pipe, rest }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ParseError> {
        let prefetched = std::mem::take(&mut self.prefetched);
        if let Err(broken) = self.parser.feed(&prefetched, &mut self.shared.lock()) {
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

    /// Writes to the pipe once; pending if there is nothing to write or the pipe accepts no bytes.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ParseError>> {
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
                // A pipe with a buffer of its own gets one chance to flush; the next round retries.
                match Pin::new(pipe).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(broken(Ended::Pipe(error.kind())))),
                    _ => Poll::Ready(Ok(())),
                }
            }
            Err(error) => Poll::Ready(Err(broken(Ended::Pipe(error.kind())))),
        }
    }

    /// Reads from the pipe once.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ParseError>> {
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

fn broken(reason: Ended) -> ParseError {
    ParseError { reason, rest: Vec::new() }
}
