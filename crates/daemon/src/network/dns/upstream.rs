//! The host's resolvers, as `/etc/resolv.conf` names them now: the file changes when the host moves or starts a VPN.
//!
//! They are asked from the host's own network, so a stub resolver on 127.0.0.53 works too.

use super::{at_port_53, message::Query};
use crate::random;
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long one resolver may take before the next is asked.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most resolvers asked for one query.
const MAX_TRIES: usize = 3;
/// Largest `resolv.conf` that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;
/// Largest answer over UDP, in bytes.
const MAX_ANSWER: usize = 4096;

/// The resolvers to ask.
#[derive(Debug)]
pub(super) struct Upstream {
    fixed: Vec<SocketAddr>,
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    version: Option<(u64, i64, i64)>,
    resolvers: Vec<SocketAddr>,
}

impl Upstream {
    /// Uses these resolvers or, when there are none, the host's.
    pub(super) fn new(fixed: Vec<SocketAddr>) -> Self {
        Self { fixed, file: "/etc/resolv.conf".into(), known: Mutex::default() }
    }

    /// Answers a query, under the query's id; `None` when no resolver answers.
    pub(super) async fn ask(&self, query: &[u8], stream: bool) -> Option<Vec<u8>> {
        let id = u16::from_str_radix(&random::hex(2), 16).ok()?.to_be_bytes();
        let asked = [&id[..], query.get(2..)?].concat();
        for resolver in self.resolvers().into_iter().take(MAX_TRIES) {
            let answered =
                async { if stream { over_tcp(resolver, &asked).await } else { over_udp(resolver, &asked).await } };
            if let Ok(Ok(mut answer)) = timeout(TIMEOUT, answered).await
                && answers(&asked, &answer)
            {
                answer[..2].copy_from_slice(&query[..2]);
                return Some(answer);
            }
        }
        None
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        if !self.fixed.is_empty() {
            return self.fixed.clone();
        }
        let version = fs::metadata(&self.file).ok().map(|file| (file.ino(), file.mtime(), file.mtime_nsec()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if version.is_none() || known.version != version {
            *known = Known { version, resolvers: read(&self.file) };
        }
        known.resolvers.clone()
    }
}

fn read(file: &Path) -> Vec<SocketAddr> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() > MAX_FILE) {
        return Vec::new();
    }
    parse(&fs::read_to_string(file).unwrap_or_default())
}

/// Resolvers in a `resolv.conf`; without any, the host itself (resolv.conf(5)).
fn parse(text: &str) -> Vec<SocketAddr> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // The zone (`%eth0`) is dropped: the kernel finds the interface of other addresses by itself.
        address.split('%').next()?.parse::<IpAddr>().ok().map(at_port_53)
    };
    let named: Vec<_> = text.lines().filter_map(of).collect();
    if named.is_empty() { vec![at_port_53(Ipv4Addr::LOCALHOST.into())] } else { named }
}

/// Whether an answer belongs to this query and is not somebody's guess.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let both = Query::parse(query).zip(Query::parse(answer));
    query.get(..2) == answer.get(..2) && both.is_some_and(|(query, answer)| query.is_answered_by(&answer))
}

async fn over_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    // One byte more shows an answer that is too long.
    let mut buffer = vec![0; MAX_ANSWER + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(query, &buffer[..length]) {
            if length > MAX_ANSWER
                && let Some(asked) = Query::parse(query)
            {
                // The rest of the truncated answer is missing. Over TCP it fits.
                return Ok(asked.cut());
            }
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::dns::message::{Rcode, Record, tests::question};

    #[test]
    fn resolvers_are_read_as_they_are() {
        let text =
            "# x\nsearch a\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\nnameserver nonsense\noptions edns0\n";
        assert_eq!(parse(text), ["127.0.0.53:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]);
        assert_eq!(parse(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn another_file_means_other_resolvers() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("resolv.conf");
        let upstream = Upstream { fixed: Vec::new(), file: file.clone(), known: Mutex::default() };
        let name = |text: &str| {
            let new = temp.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &file).unwrap();
            upstream.resolvers()[0].ip().to_string()
        };
        assert_eq!(name("nameserver 10.0.0.1"), "10.0.0.1");
        assert_eq!(name("nameserver 10.8.0.1"), "10.8.0.1");
    }

    #[tokio::test]
    async fn only_the_answer_to_the_question_is_taken() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = server.local_addr().unwrap();
        let upstream = Upstream { fixed: vec![resolver], file: "/none".into(), known: Mutex::default() };
        let serve = async {
            let mut buffer = [0; 512];
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            let asked = Query::parse(&buffer[..length]).unwrap();
            let right = asked.answer(Rcode::NoError, &[Record::a(Ipv4Addr::new(1, 2, 3, 4), 60)]);
            let mut guessed = right.clone();
            guessed[0] ^= 0xff;
            let other = question("other.example", 1);
            for answer in [&guessed[..], &other, b"x", &right] {
                server.send_to(answer, from).await.unwrap();
            }
        };
        let query = question("example.com", 1);
        let (answer, ()) = tokio::join!(upstream.ask(&query, false), serve);
        let answer = answer.unwrap();
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(super::super::message::addresses(&answer), [(Ipv4Addr::new(1, 2, 3, 4), 60)]);
    }
}
