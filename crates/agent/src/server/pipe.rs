//! The guest's end of the virtio-serial port, as a byte pipe.
//!
//! It is opened with O_NONBLOCK, because a blocking write spins in the kernel while the host is away. Meanwhile a read
//! returns 0 bytes at once, a write accepts none, and the port polls as hung up. So none of these means an end here:
//! the port is tried again a little later.

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

/// Pause before a port without a host is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const PORTS: &str = "/sys/class/virtio-ports";

/// An open port.
#[derive(Debug)]
pub(super) struct Port {
    pipe: Pipe,
    /// Timers of reading and of writing, while the host is away.
    pauses: [Pause; 2],
}

type Pause = Option<Pin<Box<Sleep>>>;

/// Waits for the end of the current pause.
fn poll_pause(pause: &mut Pause, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(sleep) = pause {
        ready!(sleep.as_mut().poll(cx));
        *pause = None;
    }
    Poll::Ready(())
}

impl Port {
    /// Waits until the port exists and opens it.
    pub(super) async fn open(patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            let opened = find(Path::new(PORTS)).and_then(|path| {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                Ok(open(path, flags, Mode::empty())?)
            });
            match opened {
                Ok(fd) => return Ok(Self { pipe: Pipe::new(fd)?, pauses: [None, None] }),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Returns the device node of the port with our name.
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
        let Self { pipe, pauses: [pause, _] } = &mut *self;
        loop {
            ready!(poll_pause(pause, cx));
            match ready!(pipe.poll_read_some(cx, buf))? {
                0 => *pause = Some(Box::pin(sleep(RETRY_PAUSE))),
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { pipe, pauses: [_, pause] } = &mut *self;
        loop {
            ready!(poll_pause(pause, cx));
            match ready!(pipe.poll_write_some(cx, bytes))? {
                0 if !bytes.is_empty() => *pause = Some(Box::pin(sleep(RETRY_PAUSE))),
                count => return Poll::Ready(Ok(count)),
            }
        }
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
    use std::os::fd::AsRawFd;

    /// A FIFO reader behaves like a port: without a writer a read returns nothing at once and polls as hung up; with
    /// the next writer it does not.
    #[tokio::test]
    async fn one_whose_host_has_come_back_is_not_read_over_and_over() {
        use std::{future::poll_fn, io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut port = Port { pipe: Pipe::new(reader.into()).unwrap(), pauses: [None, None] };
        let writer = || fs::File::options().write(true).open(&path).unwrap();
        let mut bytes = [0; 8];
        writer().write_all(b"one").unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read(&mut port, &mut bytes).await.unwrap(), 3);
        // The host is away, which is noticed and waited for.
        let mut buffer = ReadBuf::new(&mut bytes);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut port).poll_read(cx, &mut buffer))).await.is_pending());
        let mut back = writer();
        let mut polls = 0;
        let read = poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut port).poll_read(cx, &mut buffer)
        });
        let say = async {
            sleep(RETRY_PAUSE * 4).await;
            back.write_all(b"two").unwrap();
        };
        let (read, ()) = tokio::join!(read, say);
        read.unwrap();
        assert_eq!(buffer.filled(), b"two");
        assert!(polls < 20, "{polls} polls of a port that had nothing to say");
    }

    #[expect(unsafe_code, reason = "nothing else sets one of them")]
    fn set(socket: &impl AsRawFd, option: i32, value: u32) {
        let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
        // SAFETY: setsockopt(2) reads a number of the length it is told.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), size) };
        assert_eq!(set, 0);
    }

    /// A full connection in an error state behaves like a port without a host: it accepts nothing, and the runtime
    /// takes it for hung up.
    #[tokio::test]
    async fn one_whose_host_is_away_is_not_written_over_and_over() {
        use std::{
            future::poll_fn,
            io::{Read as _, Write as _},
            net,
        };
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        set(&listener, libc::SO_RCVBUF, 32 << 10);
        let mut ours = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut host = listener.accept().unwrap().0;
        ours.set_nonblocking(true).unwrap();
        set(&ours, libc::SO_SNDBUF, 32 << 10);
        // Timestamps of sent data are kept, and poll as an error until they are read.
        let flags = libc::SOF_TIMESTAMPING_SOFTWARE | libc::SOF_TIMESTAMPING_TX_ACK | libc::SOF_TIMESTAMPING_TX_SCHED;
        set(&ours, libc::SO_TIMESTAMPING, flags);
        ours.write_all(b"x").unwrap();
        let mut port = Port { pipe: Pipe::new(ours.into()).unwrap(), pauses: [None, None] };
        let bytes = vec![0; 64 << 10];
        let mut sent = 1;
        // Until it is full, which is noticed.
        while let Ok(count) =
            tokio::time::timeout(RETRY_PAUSE * 4, poll_fn(|cx| Pin::new(&mut port).poll_write(cx, &bytes))).await
        {
            sent += count.unwrap();
        }
        assert!(port.pauses[1].is_some(), "it does not poll as hung up");
        let mut polls = 0;
        let write = poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut port).poll_write(cx, &bytes)
        });
        let take = async {
            sleep(RETRY_PAUSE * 4).await;
            host.read_exact(&mut vec![0; sent]).unwrap();
        };
        let (written, ()) = tokio::join!(write, take);
        assert!(written.unwrap() > 0);
        assert!(polls < 20, "{polls} polls of a port that took nothing");
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
