//! The host's end of the pipe.

use crate::{
    frame::MAX_PAYLOAD,
    handshake::{GREETING, Greeting, Scanner, fresh_nonce},
    session::{Ended, Role, Shared, dial::Dialer, driver::Driver, inbound::Incoming, mux::Mux, parse::Parser},
};
use banger_proto::agent::link::{HELLO, REPLY};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep,
};

/// Pause between hellos. A guest that opens the port finds one waiting, so this matters only to a guest that lost its
/// position.
const HELLO_INTERVAL: Duration = Duration::from_millis(200);
/// Most hellos that are sent at once: enough to fill the frame in whose middle a restored guest may be.
const HELLO_BURST: usize = MAX_PAYLOAD / GREETING + 2;

/// A session with a guest: the host's handles.
#[derive(Debug)]
pub struct HostSession<P> {
    /// Opens streams to the guest.
    pub dialer: Dialer,
    /// Streams that the guest opens.
    pub incoming: Incoming,
    /// Must be polled for the session to make progress; ends with the reason.
    pub driver: Driver<P>,
}

impl<P: AsyncRead + AsyncWrite + Unpin> HostSession<P> {
    /// Waits until a guest answers, without a limit. Everything that the pipe holds before the answer is dropped.
    ///
    /// Dropping the future drops the pipe. It fails with [`Ended::Closed`] or [`Ended::Pipe`].
    pub async fn open(pipe: P) -> Result<Self, Ended> {
        let hello = Greeting { magic: HELLO, nonce: fresh_nonce() };
        let (mut reader, mut writer) = tokio::io::split(pipe);
        let mut scanner = Scanner::new(REPLY);
        let mut buffer = vec![0; 4 << 10];
        let mut out = Vec::new();
        let mut sent = 0;
        let mut burst = 1;
        let prefetched = loop {
            let write = async {
                if sent == out.len() {
                    if !out.is_empty() {
                        sleep(HELLO_INTERVAL).await;
                    }
                    out = hello.bytes().repeat(burst);
                    sent = 0;
                    burst = (burst * 2).min(HELLO_BURST);
                }
                // No await between a successful write and its accounting.
                sent += writer.write(&out[sent..]).await?;
                writer.flush().await
            };
            tokio::select! {
                biased;
                count = reader.read(&mut buffer) => {
                    let count = count.map_err(|error| Ended::Pipe(error.kind()))?;
                    if count == 0 {
                        return Err(Ended::Closed);
                    }
                    let mut bytes = &buffer[..count];
                    let mut answered = false;
                    while let Some((nonce, taken)) = scanner.feed(bytes) {
                        bytes = &bytes[taken..];
                        answered = nonce == hello.nonce;
                        if answered {
                            break;
                        }
                    }
                    if answered {
                        break bytes.to_vec();
                    }
                }
                written = write => written.map_err(|error| Ended::Pipe(error.kind()))?,
            }
        };
        // A hello that was begun is finished; the rest of the burst is not needed any more.
        out.truncate(sent.next_multiple_of(GREETING));
        out.drain(..sent);
        let shared = Shared::new(Mux::new(Role::Host));
        Ok(Self {
            dialer: Dialer::new(shared.clone()),
            incoming: Incoming::new(shared.clone()),
            driver: Driver::new(reader.unsplit(writer), shared, Parser::new(None), prefetched, out),
        })
    }
}
