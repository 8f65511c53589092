//! The guests' resolver: `.vm` with authority, other names by asking the host's resolvers, and nothing a VM may not reach.
//!
//! Who asks is known by address, which the helper's rules make true. Queries are hostile: every one is bounded in size,
//! time and number, for each VM and for all. The sockets are in banger's namespace, those to the host's resolvers outside.

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

/// Questions that wait for the host's resolvers, for all VMs and for one.
const MAX_WAITING: (usize, usize) = (512, 64);
/// TCP conversations, for all VMs and for one.
const MAX_CONVERSATIONS: (usize, usize) = (128, 8);
/// Largest query, in bytes.
const MAX_QUERY: usize = 4096;
/// How long a TCP conversation may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a `.vm` answer is good for, in seconds: VMs come and go.
const TTL: u32 = 5;
/// The domain of VMs.
const DOMAIN: &str = ".vm";
/// Answers that open addresses are told to be good for no longer: the rule closes again.
const MAX_LEARNED_TTL: u32 = 3600;

/// What is to be done about a query.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The answer.
    Answer(Vec<u8>),
    /// The host's resolvers are asked; what comes opens addresses under these rules.
    Forward(Vec<u8>),
    /// Not even an error: it is no query.
    Nothing,
}

/// Serves the two sockets (UDP, TCP) until the tasks are aborted.
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
    let mut waiting = Waiting::new(MAX_WAITING);
    let mut buffer = [0; MAX_QUERY];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = waiting.next() => continue,
        };
        // An error is about an answer that did not arrive.
        let Ok((length, SocketAddr::V4(from))) = received else { continue };
        let Some(shared) = shared.upgrade() else { return };
        let Some(guest) = shared.guests.by_address(*from.ip()) else { continue };
        let bytes = &buffer[..length];
        let Some(query) = Query::parse(bytes) else { continue };
        match decide(&shared, &guest, &query) {
            Verdict::Nothing => {}
            Verdict::Answer(answer) => drop(socket.send_to(&answer, from).await),
            Verdict::Forward(_) if !waiting.has_room(*from.ip()) => {
                drop(socket.send_to(&query.answer(Rcode::ServerFailure, &[]), from).await);
            }
            Verdict::Forward(rules) => {
                let bytes = bytes.to_vec();
                // Not to be kept open by a question that waits: another server may want the address.
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
    let mut conversations = Waiting::new(MAX_CONVERSATIONS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = conversations.next() => continue,
        };
        match accepted {
            Ok((stream, SocketAddr::V4(from))) if conversations.has_room(*from.ip()) => {
                conversations.add(*from.ip(), converse(shared.clone(), stream, *from.ip(), upstream.clone()));
            }
            Ok(_) => {}
            // Out of descriptors: so that it does not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Queries one after the other on a stream, each with its length before it.
async fn converse(shared: Weak<Shared>, mut stream: TcpStream, from: Ipv4Addr, upstream: Arc<Upstream>) {
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
        let Ok(Ok(bytes)) = timeout(SILENCE, read).await else { return };
        let Some(strong) = shared.upgrade() else { return };
        let Some(guest) = strong.guests.by_address(from) else { return };
        let Some(query) = Query::parse(&bytes) else { return };
        let verdict = decide(&strong, &guest, &query);
        drop(strong);
        let answer = match verdict {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Forward(rules) => forward(&shared, &upstream, &guest, &bytes, &rules, true).await,
            Verdict::Nothing => None,
        };
        let Some(answer) = answer else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        if !matches!(timeout(SILENCE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn decide(shared: &Shared, guest: &Guest, query: &Query<'_>) -> Verdict {
    if !query.is_query() {
        return Verdict::Nothing;
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

/// Asks the host's resolvers. Addresses are open before the guest knows them: it learns none that could not be opened
/// (private addresses and the host's own are told and stay closed).
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
        // Of what was cut only a part would be open. Over TCP there is room for all of it.
        return if stream { failed() } else { Some(query.cut()) };
    }
    let found = message::addresses(&answer);
    if !found.is_empty() {
        let shared = shared.upgrade()?;
        let addresses: Vec<Ipv4Addr> = found.iter().map(|(address, _)| *address).collect();
        shared.guests.remember(&guest.vm, &addresses, &query.name);
        if !rules.is_empty() {
            let ttl = found.iter().map(|(_, ttl)| *ttl).min().unwrap_or(0).min(MAX_LEARNED_TTL);
            if let Err(reason) = lifecycle::learn(&shared, guest, rules, &addresses, ttl).await {
                tracing::warn!(vm = %guest.vm, name = query.name, reason, "a name's addresses cannot be opened");
                return failed();
            }
            message::limit_ttl(&mut answer, ttl);
        }
    }
    Some(answer)
}

/// Tasks by who they are for, so that one VM cannot take all the room.
struct Waiting {
    tasks: JoinSet<Ipv4Addr>,
    each: HashMap<Ipv4Addr, usize>,
    limits: (usize, usize),
}

impl Waiting {
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

    /// Waits for one to end; for ever when there is none.
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
            // They neither panic nor are they aborted but with this value.
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

/// The addresses of resolvers, with the port they answer on.
fn at_port_53(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 53)
}

#[cfg(test)]
mod tests;
