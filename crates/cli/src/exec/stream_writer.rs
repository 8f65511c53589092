//! Writers for stdout and stderr of a session. Each writes unbuffered in a thread, so that a slow reader delays neither
//! signals nor the other stream.

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, write},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite, task::JoinHandle};

/// Most bytes of one write.
const LARGEST: usize = 256 << 10;

/// Writer to one of this process's streams.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    stream: Arc<OwnedFd>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl StreamWriter {
    /// Creates a writer on a duplicate of `stream`.
    pub(crate) fn new(stream: impl AsFd) -> io::Result<Self> {
        Ok(Self { stream: Arc::new(stream.as_fd().try_clone_to_owned()?), writing: None })
    }

    /// Ready once no write is pending, with the result of the last one.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(())) };
        let written = ready!(Pin::new(writing).poll(context));
        self.writing = None;
        Poll::Ready(written.map_err(io::Error::other)?)
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_idle(context))?;
        let bytes = bytes[..bytes.len().min(LARGEST)].to_vec();
        let count = bytes.len();
        let stream = Arc::clone(&self.stream);
        self.writing = Some(tokio::task::spawn_blocking(move || write_all(&stream, &bytes)));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_idle(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

fn write_all(stream: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(stream, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Another process that shares the stream made it non-blocking.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(stream, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read as _, time::Duration};
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_stream_somebody_made_non_blocking_loses_nothing() {
        let (reader, pipe) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let reading = std::thread::spawn(move || {
            let mut received = Vec::new();
            File::from(reader).read_to_end(&mut received).unwrap();
            received
        });
        let mut writer = StreamWriter::new(&pipe).unwrap();
        drop(pipe);
        let work = async {
            writer.write_all(&sent).await?;
            writer.flush().await
        };
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("it hangs").unwrap();
        drop(writer);
        assert!(reading.join().unwrap() == sent);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_a_broken_pipe() {
        let (reader, pipe) = rustix::pipe::pipe().unwrap();
        let mut writer = StreamWriter::new(&pipe).unwrap();
        drop(reader);
        writer.write_all(b"x").await.unwrap();
        assert_eq!(writer.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
