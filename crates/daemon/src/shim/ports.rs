//! Published ports: listeners on the host whose connections go to the guest, through its agent.
//!
//! They are the shim's, so they live as long as the machine and need neither the daemon nor a network card. A connection
//! that comes while the guest does not answer is closed.

use super::control::{Opened, Refused, ShimMessage};
use banger_link::{Dialer, Stream};
use banger_proto::{agent::link::AGENT_PORT, network::Publish};
use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::timeout,
};

/// Connections of one port at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// How long a guest may take to reach its own port. Software emulation on a loaded host is slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer to CONNECT, in bytes.
const MAX_ANSWER: usize = 4 << 10;
/// What is moved at once, in each direction.
const CHUNK: usize = 64 << 10;
/// Pause after an accept that failed (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The ports of one machine.
#[derive(Debug)]
pub(super) struct Ports {
    session: watch::Receiver<Option<Dialer>>,
    open: Mutex<Vec<Open>>,
}

#[derive(Debug)]
struct Open {
    opened: Opened,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    pub(super) fn new(session: watch::Receiver<Option<Dialer>>) -> Self {
        Self { session, open: Mutex::default() }
    }

    /// Listens. A port that is open already stays open.
    pub(super) fn open(&self, asked: Publish) -> io::Result<()> {
        let mut open = self.lock();
        if open.iter().any(|open| open.opened.asked == asked) {
            return Ok(());
        }
        let listener = std::net::TcpListener::bind(asked.host)?;
        listener.set_nonblocking(true)?;
        let host = match listener.local_addr()? {
            SocketAddr::V4(host) => host,
            SocketAddr::V6(_) => SocketAddrV4::new(*asked.host.ip(), asked.host.port()),
        };
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(accept(listener, asked.guest, self.session.clone())).abort_handle();
        open.push(Open { opened: Opened { asked, at: Publish { host, ..asked } }, task });
        Ok(())
    }

    /// Stops listening. Connections that are open stay open.
    pub(super) fn close(&self, asked: Publish) {
        self.lock().retain(|open| open.opened.asked != asked);
    }

    /// What is open.
    pub(super) fn all(&self) -> Vec<Opened> {
        self.lock().iter().map(|open| open.opened).collect()
    }

    /// Opens a port as somebody asked, and says what came of it.
    pub(super) fn carry_out(&self, asked: Publish) -> ShimMessage {
        let refused = self.open(asked).err().map(|error| Refused { asked, reason: error.to_string() });
        ShimMessage::Published { published: self.all(), refused }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, port: u16, session: watch::Receiver<Option<Dialer>>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let session = session.clone();
                tokio::spawn(async move {
                    // The client sees its connection closed; why is in neither side's protocol.
                    let _ = carry(client, port, session).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn carry(mut client: TcpStream, port: u16, session: watch::Receiver<Option<Dialer>>) -> io::Result<()> {
    let Some(dialer) = session.borrow().clone() else { return Ok(()) };
    client.set_nodelay(true)?;
    let mut guest = timeout(PATIENCE, connect(&dialer, port)).await??;
    copy_bidirectional_with_sizes(&mut client, &mut guest, CHUNK, CHUNK).await.map(drop)
}

/// A stream to a port of the guest, on whichever of its loopback addresses somebody listens.
async fn connect(dialer: &Dialer, port: u16) -> io::Result<Stream> {
    let mut guest = dialer.dial(AGENT_PORT).await.map_err(io::Error::other)?;
    let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    guest.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the answer is the connection's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answer.push(guest.read_u8().await?);
    }
    let accepted = answer.starts_with(b"HTTP/1.1 200 ");
    if accepted { Ok(guest) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_link::{HostSession, Incoming, guest};
    use tokio::{net::UnixStream, sync::mpsc};

    /// An agent that answers CONNECT and then repeats what it is told.
    async fn agent(mut incoming: Incoming, answer: &'static str) {
        while let Ok(inbound) = incoming.next().await {
            let mut stream = inbound.accept().await;
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                assert!(asked.starts_with(b"CONNECT 127.0.0.1:80 "));
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
    }

    async fn ports(answer: &'static str) -> (Ports, watch::Sender<Option<Dialer>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, mut incoming) = mpsc::unbounded_channel();
        tokio::spawn(guest::run(theirs, move |_, incoming| drop(sender.send(incoming))));
        let HostSession { dialer, driver, incoming: unused } = HostSession::open(ours).await.unwrap();
        tokio::spawn(async move {
            let _unused = unused;
            driver.run().await
        });
        tokio::spawn(agent(incoming.recv().await.unwrap(), answer));
        let (session, watching) = watch::channel(Some(dialer));
        (Ports::new(watching), session)
    }

    fn any_port() -> Publish {
        "127.0.0.1:0:80".parse().unwrap()
    }

    #[tokio::test]
    async fn a_connection_reaches_the_guest_and_comes_back() {
        let (ports, _session) = ports("HTTP/1.1 200 OK\r\n\r\n").await;
        ports.open(any_port()).unwrap();
        let [open] = ports.all()[..] else { panic!("one port is open") };
        assert!(open.asked == any_port() && open.at.host.port() != 0);
        let mut client = TcpStream::connect(open.at.host).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
        ports.close(any_port());
        assert_eq!(ports.all(), []);
        client.write_all(b"still").await.unwrap();
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"still");
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_and_a_guest_that_is_not_there_close_the_connection() {
        let (ports, session) = ports("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        ports.open(any_port()).unwrap();
        let at = ports.all()[0].at.host;
        for _ in 0..2 {
            let mut client = TcpStream::connect(at).await.unwrap();
            let mut back = Vec::new();
            let read = client.read_to_end(&mut back).await;
            assert!(back.is_empty() && read.is_ok_and(|count| count == 0));
            session.send_replace(None);
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_refused_with_the_reason() {
        let (ports, _session) = ports("").await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let asked: Publish = format!("{}:80", taken.local_addr().unwrap()).parse().unwrap();
        let ShimMessage::Published { published, refused } = ports.carry_out(asked) else { panic!("another message") };
        assert!(published.is_empty() && refused.is_some_and(|refused| refused.asked == asked));
    }
}
