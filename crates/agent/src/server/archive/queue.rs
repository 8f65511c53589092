//! Blocking readers and writers on one side, chunks of the stream on the other.

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Body;
use std::{
    error::Error,
    fs::File,
    io::{self, Read, Write},
};
use tokio::sync::mpsc;

/// Size of a chunk, in bytes.
const PIECE: usize = 64 << 10;
/// Most chunks that are queued.
const PIECES: usize = 4;

/// A writer whose chunks become a response body.
#[derive(Debug)]
pub(super) struct PieceWriter {
    buffer: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl PieceWriter {
    pub(super) fn new() -> (Self, mpsc::Receiver<io::Result<Bytes>>) {
        let (pieces, receiver) = mpsc::channel(PIECES);
        (Self { buffer: Vec::with_capacity(PIECE), pieces }, receiver)
    }

    /// Copies `size` bytes of a file directly into chunks; a file that is shorter by now is filled up with zeros.
    pub(super) fn take(&mut self, file: &File, size: u64) -> io::Result<()> {
        let mut left = size;
        let mut ended = false;
        while left > 0 {
            let before = self.buffer.len();
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE - before);
            if ended {
                self.buffer.resize(before + room, 0);
            } else {
                ended = file.take(room as u64).read_to_end(&mut self.buffer)? < room;
            }
            left -= (self.buffer.len() - before) as u64;
            if self.buffer.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Breaks off the body with an error.
    pub(super) fn fail(self, error: io::Error) {
        let _ = self.pieces.blocking_send(Err(error));
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A reader of a request body. An empty chunk ends it: a feeder that is dropped because the client is gone must not
/// look like the end of the body.
#[derive(Debug)]
pub(in crate::server) struct BodyReader {
    piece: Bytes,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    ended: bool,
}

/// Feeder of a [`BodyReader`].
#[derive(Debug)]
pub(in crate::server) struct BodyFeeder(mpsc::Sender<io::Result<Bytes>>);

impl BodyReader {
    pub(in crate::server) fn new() -> (BodyFeeder, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (BodyFeeder(sender), Self { piece: Bytes::new(), pieces, ended: false })
    }
}

impl BodyFeeder {
    /// Feeds the body until it ends or the reader is dropped; `false` if the body breaks off.
    pub(in crate::server) async fn feed<B>(self, mut body: B) -> bool
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
    {
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Ok(data),
                    Ok(_) | Err(_) => continue,
                },
                Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
            };
            let broken = piece.is_err();
            if self.0.send(piece).await.is_err() {
                return true;
            }
            if broken {
                return false;
            }
        }
        let _ = self.0.send(Ok(Bytes::new())).await;
        true
    }
}

impl Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            let next = self.pieces.blocking_recv();
            self.piece = next.ok_or(io::ErrorKind::UnexpectedEof)??;
            self.ended = self.piece.is_empty();
        }
        let count = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use hyper::body::Frame;
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
        time::Duration,
    };

    /// A body that never ends.
    struct Endless(Option<Bytes>);

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
        }
    }

    async fn all_of(mut reader: BodyReader) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = tokio::task::spawn_blocking(move || reader.read_to_end(&mut bytes).map(|_| bytes));
        read.await.unwrap()
    }

    #[tokio::test]
    async fn a_body_that_is_given_up_has_no_end() {
        let (feeder, reader) = BodyReader::new();
        let piece = Bytes::from_static(b"a piece");
        let fed = tokio::time::timeout(Duration::ZERO, feeder.feed(Endless(Some(piece.clone())))).await;
        assert!(fed.is_err(), "it is fed on and on");
        assert_eq!(all_of(reader).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

        let (feeder, reader) = BodyReader::new();
        assert!(feeder.feed(Full::new(piece.clone())).await);
        assert_eq!(all_of(reader).await.unwrap(), piece);
    }
}
