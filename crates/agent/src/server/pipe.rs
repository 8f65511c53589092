//! The guest's end of the virtio-serial port, as a byte pipe.
//!
//! Opened O_NONBLOCK: a blocking write spins the processor in the kernel while the host is away. While it is away a read
//! gives 0 bytes at once and the port polls as hung up, so neither means an end here: it is looked at again a little later.

use super::pollable::Pipe;
use banger_proto::agent::link::PORT_NAME;
use rustix::fs::{Mode, OFlags, open};
use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How long a port without a host is left alone.
const ABSENCE: Duration = Duration::from_millis(50);
const PORTS: &str = "/sys/class/virtio-ports";

/// The open port.
#[derive(Debug)]
pub(super) struct Port {
    pipe: Pipe,
    absence: Option<Pin<Box<Sleep>>>,
}

impl Port {
    /// Waits until the port is there and opens it.
    pub(super) async fn open(patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            let opened = find(Path::new(PORTS)).and_then(|path| {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                Ok(open(path, flags, Mode::empty())?)
            });
            match opened {
                Ok(fd) => return Ok(Self { pipe: Pipe::new(fd)?, absence: None }),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// The device node of the port with our name.
fn find(class: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(class)? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio port is called {PORT_NAME}")))
}

impl AsyncRead for Port {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(absence) = &mut this.absence {
                ready!(absence.as_mut().poll(cx));
                this.absence = None;
            }
            match ready!(this.pipe.poll_some(cx, buf))? {
                0 => this.absence = Some(Box::pin(sleep(ABSENCE))),
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader of a FIFO is what a port is: while there is no writer a read gives nothing at once and it is hung up, and
    /// with the next writer it is not.
    #[tokio::test]
    async fn one_whose_host_has_come_back_is_not_read_over_and_over() {
        use std::{future::poll_fn, io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut port = Port { pipe: Pipe::new(reader.into()).unwrap(), absence: None };
        let writer = || fs::File::options().write(true).open(&path).unwrap();
        let mut bytes = [0; 8];
        writer().write_all(b"one").unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read(&mut port, &mut bytes).await.unwrap(), 3);
        // Its host is away: that is seen, and waited for.
        let mut buffer = ReadBuf::new(&mut bytes);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut port).poll_read(cx, &mut buffer))).await.is_pending());
        let mut back = writer();
        let mut polls = 0;
        let read = poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut port).poll_read(cx, &mut buffer)
        });
        let say = async {
            sleep(ABSENCE * 4).await;
            back.write_all(b"two").unwrap();
        };
        let (read, ()) = tokio::join!(read, say);
        read.unwrap();
        assert_eq!(buffer.filled(), b"two");
        assert!(polls < 20, "{polls} polls of a port that had nothing to say");
    }

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (port, name) in [("vport0p1", "org.qemu.guest_agent.0\n"), ("vport0p2", "banger.agent.0\n")] {
            fs::create_dir(class.path().join(port)).unwrap();
            fs::write(class.path().join(port).join("name"), name).unwrap();
        }
        assert_eq!(find(class.path()).unwrap(), Path::new("/dev/vport0p2"));
        fs::remove_dir_all(class.path().join("vport0p2")).unwrap();
        assert_eq!(find(class.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
