//! Streams that the other end opens.

use super::{Ended, Shared, stream::Stream};
use banger_proto::agent::link::{ACCEPTED, REFUSED};
use std::future::poll_fn;
use tokio::io::AsyncWriteExt;

/// Streams that the other end opens, in the order in which their headers are complete.
#[derive(Debug)]
pub struct Incoming {
    shared: Shared,
}

/// A stream that the other end opened and that waits for an answer. Dropped without one, it is reset.
#[derive(Debug)]
pub struct Inbound {
    port: u32,
    stream: Stream,
}

impl Incoming {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// Waits for the next stream; fails with the reason once the session has ended. Cancel-safe.
    pub async fn next(&mut self) -> Result<Inbound, Ended> {
        let (id, port) = poll_fn(|cx| self.shared.lock().poll_accept(cx)).await?;
        Ok(Inbound { port, stream: Stream { id, shared: self.shared.clone() } })
    }
}

impl Inbound {
    /// Returns the port that the other end asked for.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Accepts the stream. A stream that was reset meanwhile fails when it is used.
    pub async fn accept(mut self) -> Stream {
        // The first byte of a stream always fits; only a dead stream fails.
        let _ = self.stream.write_u8(ACCEPTED).await;
        self.stream
    }

    /// Refuses the stream: nothing listens on that port.
    pub async fn refuse(mut self) {
        let _ = self.stream.write_u8(REFUSED).await;
        let _ = self.stream.shutdown().await;
    }
}
