//! The guest's end of the pipe: one session after another, as long as the pipe lasts.

use crate::{
    frame::{Header, Kind},
    handshake::{Greeting, Scanner},
    session::{Ended, Role, Shared, dial::Dialer, driver::Driver, inbound::Incoming, mux::Mux, parse::Parser},
};
use banger_proto::agent::link::{HELLO, REPLY};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Serves sessions on `pipe` until the pipe itself fails or ends, and returns how it ended.
///
/// `on_session` gets the handles of each new session; those of the session before then fail. It must not block. A
/// session that breaks, or is replaced by another hello, is not the end: the guest then waits for the next hello.
pub async fn run<P>(mut pipe: P, mut on_session: impl FnMut(Dialer, Incoming)) -> Ended
where
    P: AsyncRead + AsyncWrite + Unpin,
{
    let mut rest = Vec::new();
    loop {
        let (hello, prefetched) = match hello(&mut pipe, rest).await {
            Ok(found) => found,
            Err(ended) => return ended,
        };
        let reply = Greeting { magic: REPLY, nonce: hello.nonce };
        let shared = Shared::new(Mux::new(Role::Guest));
        let driver = Driver::new(pipe, shared.clone(), Parser::new(Some(hello)), prefetched, reply.bytes().to_vec());
        on_session(Dialer::new(shared.clone()), Incoming::new(shared));
        let remains = driver.finish().await;
        match remains.reason {
            Ended::Closed | Ended::Pipe(_) => return remains.reason,
            Ended::Protocol(_) | Ended::GoAway | Ended::Superseded | Ended::Dropped => {}
        }
        (pipe, rest) = (remains.pipe, remains.rest);
    }
}

/// Ends the session of a process of this guest that died, for the process that takes over the pipe. A host that waits
/// for an answer drops the frame.
pub async fn end_previous<P: AsyncWrite + Unpin>(pipe: &mut P) -> io::Result<()> {
    let farewell = Header { kind: Kind::GoAway, flags: 0, stream: 0, length: 0 };
    pipe.write_all(&farewell.encode()).await?;
    pipe.flush().await
}

/// Reads up to the next hello, and returns it with the bytes read beyond it.
async fn hello<P: AsyncRead + Unpin>(pipe: &mut P, rest: Vec<u8>) -> Result<(Greeting, Vec<u8>), Ended> {
    let mut scanner = Scanner::new(HELLO);
    let mut bytes = rest;
    loop {
        if let Some((nonce, taken)) = scanner.feed(&bytes) {
            bytes.drain(..taken);
            return Ok((Greeting { magic: HELLO, nonce }, bytes));
        }
        bytes.resize(4 << 10, 0);
        let count = pipe.read(&mut bytes).await.map_err(|error| Ended::Pipe(error.kind()))?;
        if count == 0 {
            return Err(Ended::Closed);
        }
        bytes.truncate(count);
    }
}
