//! Firecracker's *hybrid vsock*: a Unix socket on which a line names the guest's port.
//!
//! The client sends `CONNECT <port>\n` and waits for `OK <number>\n` before it sends anything else, because bytes that
//! arrive with the line may be lost. A server without a listener on that port closes the connection.

use std::{io, path::Path};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};

/// Longest line that either side may send, with its line feed. `CONNECT 4294967295\n` has 19 bytes.
const MAX_LINE: usize = 32;

/// Why a guest's port could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket does not exist, or nobody serves it: the VM is down.
    #[error("the VM's socket cannot be reached")]
    Socket(#[source] io::Error),
    /// The connection was closed instead of answered: nothing listens on that port, or not yet.
    #[error("nothing answers on guest port {0}")]
    Refused(u32),
    /// The connection failed while the answer was awaited.
    #[error("the VM's socket failed")]
    Io(#[source] io::Error),
    /// The answer is not `OK <number>`.
    #[error("the VM's socket answered with nonsense")]
    BadAnswer,
}

/// Connects to `port` of the guest behind the socket at `path`. There is no time limit for the answer.
pub async fn connect(path: &Path, port: u32) -> Result<UnixStream, ConnectError> {
    let mut stream = UnixStream::connect(path).await.map_err(ConnectError::Socket)?;
    client_handshake(&mut stream, port).await?;
    Ok(stream)
}

/// Performs the client's half of the handshake on a connected stream.
pub async fn client_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    port: u32,
) -> Result<(), ConnectError> {
    let closed = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ConnectError::Refused(port),
        _ => ConnectError::Io(error),
    };
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(closed)?;
    match read_line(stream).await.map_err(closed)? {
        Line::Whole(line) => line
            .strip_prefix("OK ")
            .and_then(|number| number.parse::<u32>().ok())
            .map(drop)
            .ok_or(ConnectError::BadAnswer),
        Line::Ended => Err(ConnectError::Refused(port)),
        Line::Bad => Err(ConnectError::BadAnswer),
    }
}

/// Performs the server's half: reads the client's line. `None` if the client sent something else or left; the
/// connection is then to be closed. Once a stream to the port is open, the answer is [`server_accept`].
pub async fn server_port<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<u32>> {
    Ok(match read_line(stream).await? {
        Line::Whole(line) => line.strip_prefix("CONNECT ").and_then(|port| port.parse().ok()),
        Line::Ended | Line::Bad => None,
    })
}

/// Tells the client that its bytes now reach the port it asked for. `number` is the server's own name of the
/// connection.
pub async fn server_accept<S: AsyncWrite + Unpin>(stream: &mut S, number: u32) -> io::Result<()> {
    stream.write_all(format!("OK {number}\n").as_bytes()).await
}

enum Line {
    /// The line without its line feed.
    Whole(String),
    /// The end of file came first.
    Ended,
    /// The line is too long, or no text.
    Bad,
}

/// Reads a line byte by byte, so that the bytes after it stay in the socket.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Line> {
    let mut line = Vec::with_capacity(MAX_LINE);
    while line.len() < MAX_LINE {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(Line::Ended);
        }
        if byte == *b"\n" {
            return Ok(String::from_utf8(line).map_or(Line::Bad, Line::Whole));
        }
        line.extend(byte);
    }
    Ok(Line::Bad)
}
