//! `GET /ports`: listening sockets of the guest.

use banger_proto::agent::http::Port;
use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Most sockets that are listed.
const MAX_PORTS: usize = 4096;
/// `TCP_LISTEN`, and the state in `/proc/net/udp` of a socket that is bound and not connected (`TCP_CLOSE`).
const TABLES: [(&str, &str, &str); 4] = [
    ("tcp", "/proc/net/tcp", "0A"),
    ("tcp", "/proc/net/tcp6", "0A"),
    ("udp", "/proc/net/udp", "07"),
    ("udp", "/proc/net/udp6", "07"),
];

/// Lists all listening sockets, sorted.
pub(super) fn list() -> Vec<Port> {
    let mut found = Vec::new();
    for (protocol, path, state) in TABLES {
        let table = fs::read_to_string(path).unwrap_or_default();
        found.extend(table.lines().skip(1).filter_map(|line| entry(line, state)).map(|socket| (protocol, socket)));
    }
    found.truncate(MAX_PORTS);
    let owners = if found.is_empty() { HashMap::new() } else { owners() };
    let mut ports: Vec<Port> = found
        .into_iter()
        .map(|(protocol, (address, port, inode))| {
            let pid = owners.get(&inode).copied();
            let process = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            Port {
                protocol: protocol.to_owned(),
                address: address.to_string(),
                port,
                pid,
                process: process.map(|name| name.trim_end_matches('\n').to_owned()),
            }
        })
        .collect();
    ports.sort_by(|a, b| (&a.protocol, a.port, &a.address).cmp(&(&b.protocol, b.port, &b.address)));
    ports
}

/// Parses address, port and inode of one line, if the socket is in `state`.
fn entry(line: &str, state: &str) -> Option<(IpAddr, u16, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != state {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some((parse_address(address)?, u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
}

/// Parses an address: 32-bit words in the processor's byte order, each printed as a number.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for index in 0..4 {
                bytes[index * 4..][..4].copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Maps sockets to the process that holds them; the first one found, if there are several.
fn owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_tables() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 4242 1 0 0 10 0";
        assert_eq!(entry(line, "0A"), Some((Ipv4Addr::LOCALHOST.into(), 8080, 4242)));
        assert_eq!(entry(line, "07"), None);
        assert_eq!(parse_address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(parse_address("é1111111"), None);
        assert_eq!(entry("garbage", "0A"), None);
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = list().into_iter().find(|found| found.port == port && found.protocol == "tcp").unwrap();
        assert_eq!((found.address.as_str(), found.pid), ("127.0.0.1", Some(std::process::id())));
        assert!(found.process.is_some());
    }
}
