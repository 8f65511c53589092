//! Published ports: listeners on the host whose connections go to the guest, through its agent.
//!
//! They belong to the shim, so they live as long as the machine and need neither the daemon nor a NIC. A connection
//! that arrives while the guest does not answer is closed. All ports share a limit of concurrent connections; further
//! ones wait in the kernel's queues, and a client that vanishes without closing does not keep its slot forever.

#![expect(unsafe_code, reason = "the runtime wants a promise that a watched descriptor stays open")]

use super::{
    control::{Opened, Refused, ShimMessage},
    stream_quota::PUBLISHED,
};
use banger_link::{Dialer, Stream};
use banger_proto::{agent::link::AGENT_PORT, network::Publish};
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use std::{
    io,
    net::{SocketAddr, SocketAddrV4, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes, unix::AsyncFd},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::AbortHandle,
    time::timeout,
};

/// Time limit for connecting to the port inside the guest. Software emulation on a loaded host is slow.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest response to CONNECT, in bytes.
const MAX_ANSWER: usize = 4 << 10;
/// End of a response.
const END: &[u8] = b"\r\n\r\n";
/// Size of the copy buffer for each direction, in bytes.
const CHUNK: usize = 64 << 10;
/// Pause after an accept that failed (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Idle time after which TCP keepalive probes a client. A client that has not acknowledged sent data is not probed: the
/// kernel retransmits to it, for a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(120);
/// Unanswered probes after which the connection is dropped.
const PROBES: u32 = 4;
/// Time between two probes.
const BETWEEN_PROBES: Duration = Duration::from_secs(30);

/// The published ports of a machine.
#[derive(Debug)]
pub(super) struct Ports {
    session: watch::Receiver<Option<Dialer>>,
    slots: Arc<Semaphore>,
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
        Self { session, slots: Arc::new(Semaphore::new(PUBLISHED)), open: Mutex::default() }
    }

    /// Starts listening. A port that is already open stays open.
    pub(super) fn open(&self, asked: Publish) -> io::Result<()> {
        let mut open = self.lock();
        if open.iter().any(|open| open.opened.asked == asked) {
            return Ok(());
        }
        let listener = TcpListener::bind(asked.host)?;
        listener.set_nonblocking(true)?;
        let host = match listener.local_addr()? {
            SocketAddr::V4(host) => host,
            SocketAddr::V6(_) => SocketAddrV4::new(*asked.host.ip(), asked.host.port()),
        };
        // SAFETY: the listener is moved into the value, and its descriptor stays open and the same until it is dropped.
        let listener = unsafe { AsyncFd::register(listener) }?;
        let serving = accept(listener, asked.guest, self.slots.clone(), self.session.clone());
        let task = tokio::spawn(serving).abort_handle();
        open.push(Open { opened: Opened { asked, at: Publish { host, ..asked } }, task });
        Ok(())
    }

    /// Stops listening. Open connections stay open.
    pub(super) fn close(&self, asked: Publish) {
        self.lock().retain(|open| open.opened.asked != asked);
    }

    /// All open ports.
    pub(super) fn all(&self) -> Vec<Opened> {
        self.lock().iter().map(|open| open.opened).collect()
    }

    /// Opens a port and returns the message about the result.
    pub(super) fn open_and_report(&self, asked: Publish) -> ShimMessage {
        let refused = self.open(asked).err().map(|error| Refused { asked, reason: error.to_string() });
        ShimMessage::Published { published: self.all(), refused }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(
    listener: AsyncFd<TcpListener>,
    port: u16,
    slots: Arc<Semaphore>,
    session: watch::Receiver<Option<Dialer>>,
) {
    loop {
        match next(&listener, &slots).await {
            Ok((client, slot)) => {
                let session = session.clone();
                tokio::spawn(async move {
                    // The client sees its connection closed; neither protocol can carry the reason.
                    let _ = forward(client, port, session).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Returns the next client of a port, once there is a slot for it. A port without clients takes no slot, and a waiting
/// client takes no descriptor.
async fn next(
    listener: &AsyncFd<TcpListener>,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    loop {
        let mut ready = listener.readable().await?;
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) else { continue };
        let (client, _) = accepted?;
        client.set_nonblocking(true)?;
        set_socket_keepalive(&client, true)?;
        set_tcp_keepidle(&client, SILENCE)?;
        set_tcp_keepintvl(&client, BETWEEN_PROBES)?;
        set_tcp_keepcnt(&client, PROBES)?;
        return Ok((TcpStream::from_std(client)?, slot));
    }
}

async fn forward(mut client: TcpStream, port: u16, session: watch::Receiver<Option<Dialer>>) -> io::Result<()> {
    let Some(dialer) = session.borrow().clone() else { return Ok(()) };
    client.set_nodelay(true)?;
    let mut guest = timeout(TIMEOUT, connect(&dialer, port)).await??;
    copy_bidirectional_with_sizes(&mut client, &mut guest, CHUNK, CHUNK).await.map(drop)
}

/// Opens a stream to a port of the guest, on whichever of its loopback addresses a process listens.
async fn connect(dialer: &Dialer, port: u16) -> io::Result<Stream> {
    let mut guest = dialer.dial(AGENT_PORT).await.map_err(io::Error::other)?;
    let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    guest.write_all(request.as_bytes()).await?;
    if is_accepted(&mut guest).await? { Ok(guest) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// Reads the agent's response to CONNECT.
async fn is_accepted(guest: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let mut answer = Vec::new();
    // Byte by byte, because anything after the response belongs to the connection.
    while !answer.ends_with(END) {
        if answer.len() >= MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answer.push(guest.read_u8().await?);
    }
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

/// Reads `data` as such a response and what follows it, for [`crate::fuzzing`].
pub(crate) async fn fuzz_read(data: &[u8]) {
    let mut left = data;
    let accepted = is_accepted(&mut left).await;
    let taken = &data[..data.len() - left.len()];
    assert!(taken.len() <= MAX_ANSWER, "{} bytes", taken.len());
    match data.windows(END.len()).position(|window| window == END).map(|at| at + END.len()) {
        Some(end) if end <= MAX_ANSWER => {
            assert_eq!(taken.len(), end, "what follows is the connection's");
            assert_eq!(accepted.expect("it is whole"), taken.starts_with(b"HTTP/1.1 200 "));
        }
        _ => assert!(accepted.is_err(), "an answer without an end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_link::{HostSession, Incoming, guest};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::{net::UnixStream, sync::mpsc};

    /// Number of streams an agent has, and the most it ever had.
    #[derive(Debug, Default)]
    struct Count {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    struct Counted<'a>(&'a Count);

    impl<'a> Counted<'a> {
        fn new(count: &'a Count) -> Self {
            count.most.fetch_max(count.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            Self(count)
        }
    }

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.now.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An agent that answers CONNECT and then echoes.
    async fn agent(mut incoming: Incoming, answer: &'static str, count: Arc<Count>) {
        while let Ok(inbound) = incoming.next().await {
            let mut stream = inbound.accept().await;
            let count = count.clone();
            tokio::spawn(async move {
                let _counted = Counted::new(&count);
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                assert!(request.starts_with(b"CONNECT 127.0.0.1:8"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
    }

    async fn ports(answer: &'static str) -> (Ports, watch::Sender<Option<Dialer>>) {
        counted_ports(answer, Arc::default()).await
    }

    async fn counted_ports(answer: &'static str, count: Arc<Count>) -> (Ports, watch::Sender<Option<Dialer>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, mut incoming) = mpsc::unbounded_channel();
        tokio::spawn(guest::run(theirs, move |_, incoming| drop(sender.send(incoming))));
        let HostSession { dialer, driver, incoming: unused } = HostSession::open(ours).await.unwrap();
        tokio::spawn(async move {
            let _unused = unused;
            driver.run().await
        });
        tokio::spawn(agent(incoming.recv().await.unwrap(), answer, count));
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
        says_hello(&mut client).await;
        ports.close(any_port());
        assert_eq!(ports.all(), []);
        says_hello(&mut client).await;
    }

    async fn says_hello(client: &mut TcpStream) {
        client.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    }

    #[tokio::test]
    async fn all_ports_share_their_connections_and_who_waits_comes_in_when_another_leaves() {
        let count = Arc::new(Count::default());
        let (mut ports, _session) = counted_ports("HTTP/1.1 200 OK\r\n\r\n", count.clone()).await;
        ports.slots = Arc::new(Semaphore::new(4));
        // Ports without clients take no slot.
        for port in 1..=6 {
            ports.open(Publish { host: SocketAddrV4::new([127, 0, 0, 1].into(), 0), guest: 80 + port }).unwrap();
        }
        let at: Vec<_> = ports.all().iter().map(|open| open.at.host).collect();
        let mut clients = Vec::new();
        for at in [at[0], at[0], at[5], at[0]] {
            let mut client = TcpStream::connect(at).await.unwrap();
            says_hello(&mut client).await;
            clients.push(client);
        }
        for at in [at[5], at[1], at[5], at[2]] {
            let mut waiting = TcpStream::connect(at).await.unwrap();
            drop(clients.remove(0));
            says_hello(&mut waiting).await;
            clients.push(waiting);
        }
        assert_eq!(count.most.load(Ordering::Relaxed), 4);
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
        let ShimMessage::Published { published, refused } = ports.open_and_report(asked) else {
            panic!("another message")
        };
        assert!(published.is_empty() && refused.is_some_and(|refused| refused.asked == asked));
    }
}
