//! Peer of a connection that answers what it was given.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Placeholder for the key that depends on the request for a session.
pub(super) const ACCEPTS: &str = "@ACCEPTS@";
/// Bytes in flight, as in a socket's buffer.
const IN_FLIGHT: usize = 64 << 10;

/// A peer that answers one request.
pub(super) struct Peer {
    pub(super) answer: Vec<u8>,
    /// Bytes of the request's body that it reads before it answers.
    pub(super) reads_first: usize,
    /// Whether it reads the rest afterwards, instead of leaving.
    pub(super) reads_rest: bool,
}

impl Peer {
    pub(super) fn answering(data: &[u8]) -> Self {
        Self { answer: data.to_owned(), reads_first: 0, reads_rest: true }
    }

    /// Starts the peer and returns our end of the connection. It ends with the current runtime.
    pub(super) fn connect(self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(IN_FLIGHT);
        tokio::spawn(self.serve(theirs));
        ours
    }

    async fn serve(self, mut stream: DuplexStream) {
        // The client may leave at any point.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let mut body = [0; 512];
        let mut left = self.reads_first;
        while left > 0 {
            match stream.read(&mut body).await {
                Ok(count @ 1..) => left = left.saturating_sub(count),
                _ => return,
            }
        }
        let _ = stream.write_all(&with_key(&self.answer, &head)).await;
        let _ = stream.shutdown().await;
        while self.reads_rest && matches!(stream.read(&mut body).await, Ok(1..)) {}
    }
}

/// Returns the answer to the request with this head.
fn with_key(answer: &[u8], head: &[u8]) -> Vec<u8> {
    let Some(at) = answer.windows(ACCEPTS.len()).position(|window| window == ACCEPTS.as_bytes()) else {
        return answer.to_owned();
    };
    let head = String::from_utf8_lossy(head).into_owned();
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map_or("", |(_, key)| key);
    [&answer[..at], derive_accept_key(key.as_bytes()).as_bytes(), &answer[at + ACCEPTS.len()..]].concat()
}
