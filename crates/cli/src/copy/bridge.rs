//! Blocking readers and writers at one end of a channel, for threads that process a tar stream.

use bytes::Bytes;
use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;

/// Chunks in flight between the connection and the thread.
const IN_FLIGHT: usize = 8;
/// Bytes that are collected into one chunk.
const CHUNK: usize = 128 << 10;

/// Number of bytes transferred so far.
pub(crate) type Counter = Arc<AtomicU64>;

/// Creates a reader of a channel; an error or the end of the channel ends it.
pub(crate) fn reader(counter: Counter) -> (mpsc::Sender<io::Result<Bytes>>, impl Read + Send + 'static) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    (sender, ChannelReader { receiver, current: Bytes::new(), counter })
}

/// Creates a writer to a channel. Without a receiver it fails with a broken pipe.
pub(crate) fn writer(counter: Counter) -> (ChannelWriter, mpsc::Receiver<io::Result<Bytes>>) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    (ChannelWriter { sender, buffer: Vec::with_capacity(CHUNK), counter }, receiver)
}

struct ChannelReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    counter: Counter,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        self.counter.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Writer to a channel; see [`writer`].
#[derive(Debug)]
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    counter: Counter,
}

impl ChannelWriter {
    /// Tells the receiver that the stream is incomplete.
    pub(crate) fn abort(self, error: io::Error) {
        let _ = self.sender.blocking_send(Err(error));
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        if chunk.is_empty() {
            return Ok(());
        }
        self.counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
