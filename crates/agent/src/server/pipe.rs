//! The guest's end of the virtio-serial port, as a byte pipe.
//!
//! Opened O_NONBLOCK: a blocking write spins the processor in the kernel while the host is away. While it is away a read
//! gives 0 bytes at once and the port polls as hung up, so neither means an end here: it is looked at again a little later.

use super::pollable::pollable;
use banger_proto::agent::link::PORT_NAME;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    io::{Errno, read, write},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    time::{Instant, Sleep, sleep},
};

/// How long a port without a host is left alone.
const ABSENCE: Duration = Duration::from_millis(50);
const PORTS: &str = "/sys/class/virtio-ports";

/// The open port.
#[derive(Debug)]
pub(super) struct Port {
    fd: AsyncFd<OwnedFd>,
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
                Ok(fd) => return Ok(Self { fd: pollable(fd)?, absence: None }),
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
            let mut guard = ready!(this.fd.poll_read_ready(cx))?;
            // One read gives one of the device's buffers, a page: as many of them at once as there are.
            let before = buf.filled().len();
            let read = loop {
                if buf.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
                match read(guard.get_inner(), buf.initialize_unfilled()) {
                    Ok(0) => break Ok(()),
                    Ok(count) => buf.advance(count),
                    Err(Errno::INTR) => {}
                    Err(error) => break Err(error),
                }
            };
            let any = buf.filled().len() > before;
            match read {
                Err(Errno::AGAIN) => guard.clear_ready(),
                // What there is goes first; the host's absence, or the error, is met again.
                _ if any => {}
                Ok(()) => this.absence = Some(Box::pin(sleep(ABSENCE))),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if any {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match write(guard.get_inner(), bytes) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
