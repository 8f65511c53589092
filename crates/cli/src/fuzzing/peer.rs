//! The other end of a connection, which says what it was given.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// In its place an agent says what only who heard the request for a session knows.
pub(super) const ACCEPTS: &str = "@ACCEPTS@";
/// Bytes on their way, as in a socket's buffer.
const IN_FLIGHT: usize = 64 << 10;

/// Somebody who is asked once and answers.
pub(super) struct Peer {
    pub(super) says: Vec<u8>,
    /// Bytes of the request's body that it takes before.
    pub(super) takes: usize,
    /// It takes the rest afterwards, instead of leaving.
    pub(super) stays: bool,
}

impl Peer {
    pub(super) fn saying(data: &[u8]) -> Self {
        Self { says: data.to_owned(), takes: 0, stays: true }
    }

    /// Our end of the connection with it. It ends with the runtime that this is called in.
    pub(super) fn meet(self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(IN_FLIGHT);
        tokio::spawn(self.answer(theirs));
        ours
    }

    async fn answer(self, mut stream: DuplexStream) {
        // Who asks may leave in the middle of anything.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let mut body = [0; 512];
        let mut left = self.takes;
        while left > 0 {
            match stream.read(&mut body).await {
                Ok(count @ 1..) => left = left.saturating_sub(count),
                _ => return,
            }
        }
        let _ = stream.write_all(&accepting(&self.says, &head)).await;
        let _ = stream.shutdown().await;
        while self.stays && matches!(stream.read(&mut body).await, Ok(1..)) {}
    }
}

/// What is said to the request with this head.
fn accepting(says: &[u8], head: &[u8]) -> Vec<u8> {
    let Some(at) = says.windows(ACCEPTS.len()).position(|window| window == ACCEPTS.as_bytes()) else {
        return says.to_owned();
    };
    let head = String::from_utf8_lossy(head).into_owned();
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map_or("", |(_, key)| key);
    [&says[..at], derive_accept_key(key.as_bytes()).as_bytes(), &says[at + ACCEPTS.len()..]].concat()
}
