//! Resolver for the guests: authoritative for `.vm`, asks the host's resolvers for other names, and refuses names a VM
//! may not reach.
//!
//! A guest is identified by its address, which the helper's rules keep from being spoofed. Queries are hostile: each is
//! bounded in size, time and number, per VM and in total. The listening sockets are in banger's namespace, the sockets
//! to the host's resolvers outside it.

mod message;
mod upstream;

use super::{Guest, Shared, Uplink, lifecycle, policy::Lookup};
pub(crate) use message::read_as_any;
use message::{Class, Kind, Query, Rcode, Record};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use upstream::Upstream;

/// Queries waiting for the host's resolvers, of all VMs and of one.
const MAX_PENDING: (usize, usize) = (512, 64);
/// TCP connections, of all VMs and of one.
const MAX_STREAMS: (usize, usize) = (128, 8);
/// Largest query, in bytes.
const MAX_QUERY: usize = 4096;
/// How long a TCP connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// TTL of `.vm` answers, in seconds; short, because VMs come and go.
const TTL: u32 = 5;
/// Domain of the VMs.
const DOMAIN: &str = ".vm";
/// Upper bound of the TTL, in seconds, of answers that open addresses: the rule that opens them expires.
const MAX_LEARNED_TTL: u32 = 3600;

/// Decision about a query.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Answered at once.
    Answer(Vec<u8>),
    /// Forwarded to the host's resolvers; the answer opens addresses under these `allow` rules.
    Forward(Vec<u8>),
    /// Dropped without an error, because it is not a query.
    Drop,
}

/// Serves the UDP and the TCP socket until the tasks are aborted.
pub(super) fn serve(shared: Weak<Shared>, [udp, tcp]: [OwnedFd; 2]) -> io::Result<[JoinHandle<()>; 2]> {
    let udp = std::net::UdpSocket::from(udp);
    let tcp = std::net::TcpListener::from(tcp);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
    let settings = shared.upgrade().map(|shared| shared.settings.dns.clone()).unwrap_or_default();
    let settings = settings.into_iter().map(|address| at_port_53(address.into())).collect();
    let upstream = Arc::new(Upstream::new(settings));
    let tasks = [
        tokio::spawn(serve_udp(shared.clone(), Arc::new(udp), upstream.clone())),
        tokio::spawn(serve_tcp(shared, tcp, upstream)),
    ];
    Ok(tasks)
}

async fn serve_udp(shared: Weak<Shared>, socket: Arc<UdpSocket>, upstream: Arc<Upstream>) {
    let mut waiting = TasksByGuest::new(MAX_PENDING);
    let mut buffer = [0; MAX_QUERY];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = waiting.next() => continue,
        };
        // An error here reports an earlier answer that could not be delivered.
        let Ok((length, SocketAddr::V4(from))) = received else { continue };
        let Some(shared) = shared.upgrade() else { return };
        let Some(guest) = shared.guests.by_address(*from.ip()) else { continue };
        let bytes = &buffer[..length];
        let Some(query) = Query::parse(bytes) else { continue };
        match decide(&shared, &guest, &query) {
            Verdict::Drop => {}
            Verdict::Answer(answer) => drop(socket.send_to(&answer, from).await),
            Verdict::Forward(_) if !waiting.has_room(*from.ip()) => {
                drop(socket.send_to(&query.answer(Rcode::ServerFailure, &[]), from).await);
            }
            Verdict::Forward(rules) => {
                let bytes = bytes.to_vec();
                // A pending query must not keep the socket open: another server may want to bind the address.
                let (socket, shared, upstream) = (Arc::downgrade(&socket), Arc::downgrade(&shared), upstream.clone());
                waiting.add(*from.ip(), async move {
                    let answer = forward(&shared, &upstream, &guest, &bytes, &rules, false).await;
                    if let (Some(socket), Some(answer)) = (socket.upgrade(), answer) {
                        drop(socket.send_to(&answer, from).await);
                    }
                });
            }
        }
    }
}

async fn serve_tcp(shared: Weak<Shared>, listener: TcpListener, upstream: Arc<Upstream>) {
    let mut streams = TasksByGuest::new(MAX_STREAMS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = streams.next() => continue,
        };
        match accepted {
            Ok((stream, SocketAddr::V4(from))) if streams.has_room(*from.ip()) => {
                streams.add(*from.ip(), serve_stream(shared.clone(), stream, *from.ip(), upstream.clone()));
            }
            Ok(_) => {}
            // Out of descriptors: the pause keeps the loop from spinning.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Serves the queries of one TCP connection in order, each with its length in front.
async fn serve_stream(shared: Weak<Shared>, mut stream: TcpStream, from: Ipv4Addr, upstream: Arc<Upstream>) {
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > MAX_QUERY {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await?;
            Ok(bytes)
        };
        let Ok(Ok(bytes)) = timeout(IDLE_TIMEOUT, read).await else { return };
        let Some(strong) = shared.upgrade() else { return };
        let Some(guest) = strong.guests.by_address(from) else { return };
        let Some(query) = Query::parse(&bytes) else { return };
        let verdict = decide(&strong, &guest, &query);
        drop(strong);
        let answer = match verdict {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Forward(rules) => forward(&shared, &upstream, &guest, &bytes, &rules, true).await,
            Verdict::Drop => None,
        };
        let Some(answer) = answer else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        if !matches!(timeout(IDLE_TIMEOUT, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn decide(shared: &Shared, guest: &Guest, query: &Query<'_>) -> Verdict {
    if !query.is_query() {
        return Verdict::Drop;
    }
    if query.class != Class::INTERNET {
        return Verdict::Answer(query.answer(Rcode::Refused, &[]));
    }
    if let Some(name) = query.name.strip_suffix(DOMAIN) {
        return Verdict::Answer(match shared.guests.peer(guest, name) {
            Some(address) if query.kind == Kind::A => query.answer(Rcode::NoError, &[Record::a(address, TTL)]),
            Some(_) => query.answer(Rcode::NoError, &[]),
            None => query.answer(Rcode::NoSuchName, &[]),
        });
    }
    if let Some(address) = message::reverse(&query.name).filter(|address| shared.settings.block.contains(*address)) {
        return Verdict::Answer(match shared.guests.peer_name(guest, address) {
            Some(name) if query.kind == Kind::PTR => {
                query.answer(Rcode::NoError, &[Record::ptr(&format!("{name}{DOMAIN}"), TTL)])
            }
            Some(_) => query.answer(Rcode::NoError, &[]),
            None => query.answer(Rcode::NoSuchName, &[]),
        });
    }
    match guest.egress.lookup(&query.name) {
        Lookup::Forward(rules) if shared.settings.uplink == Uplink::Auto => Verdict::Forward(rules),
        _ => Verdict::Answer(query.answer(Rcode::Refused, &[])),
    }
}

/// Asks the host's resolvers. Addresses are opened before the guest gets the answer, so it gets none that could not be
/// opened. (Private addresses and the host's own are answered and stay closed.)
async fn forward(
    shared: &Weak<Shared>,
    upstream: &Upstream,
    guest: &Guest,
    bytes: &[u8],
    rules: &[u8],
    stream: bool,
) -> Option<Vec<u8>> {
    let query = Query::parse(bytes)?;
    let failed = || Some(query.answer(Rcode::ServerFailure, &[]));
    let Some(mut answer) = upstream.ask(bytes, stream).await else { return failed() };
    if !rules.is_empty() && !message::is_whole(&answer) {
        // Only part of the addresses in a truncated answer could be opened. Over TCP all of them fit.
        return if stream { failed() } else { Some(query.cut()) };
    }
    let found = message::addresses(&answer);
    if !found.is_empty() {
        let shared = shared.upgrade()?;
        let addresses: Vec<Ipv4Addr> = found.iter().map(|(address, _)| *address).collect();
        shared.guests.remember(&guest.vm, &addresses, &query.name);
        if !rules.is_empty() {
            let ttl = found.iter().map(|(_, ttl)| *ttl).min().unwrap_or(0).min(MAX_LEARNED_TTL);
            if let Err(error) = lifecycle::learn(&shared, guest, rules, &addresses, ttl).await {
                let reason = error.to_string();
                tracing::warn!(vm = %guest.vm, name = query.name, reason, "a name's addresses cannot be opened");
                return failed();
            }
            message::limit_ttl(&mut answer, ttl);
        }
    }
    Some(answer)
}

/// Tasks by guest address, so that one VM cannot take all the room.
struct TasksByGuest {
    tasks: JoinSet<Ipv4Addr>,
    each: HashMap<Ipv4Addr, usize>,
    limits: (usize, usize),
}

impl TasksByGuest {
    fn new(limits: (usize, usize)) -> Self {
        Self { tasks: JoinSet::new(), each: HashMap::new(), limits }
    }

    fn has_room(&self, from: Ipv4Addr) -> bool {
        self.tasks.len() < self.limits.0 && self.each.get(&from).is_none_or(|count| *count < self.limits.1)
    }

    fn add(&mut self, from: Ipv4Addr, task: impl Future<Output = ()> + Send + 'static) {
        *self.each.entry(from).or_default() += 1;
        self.tasks.spawn(async move {
            task.await;
            from
        });
    }

    /// Waits for a task to end; forever if there is none.
    async fn next(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(from)) => {
                if let Some(count) = self.each.get_mut(&from) {
                    *count -= 1;
                    if *count == 0 {
                        self.each.remove(&from);
                    }
                }
            }
            // Tasks do not panic, and are aborted only together with this value.
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

/// Addresses of resolvers, with the DNS port.
fn at_port_53(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 53)
}

#[cfg(test)]
mod tests;
