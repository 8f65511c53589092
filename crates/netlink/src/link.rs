//! Links: bridges and their ports.

use crate::{Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Reply, Socket, attributes};
use std::io;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const RTM_NEWNEIGH: u16 = 28;
const NDA_LLADDR: u16 = 2;

const IFF_UP: u32 = 1;
/// Length of `struct ifinfomsg`, in bytes.
const FIXED: usize = 16;

/// Link, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index of the link.
    pub index: u32,
    /// Name of the link.
    pub name: String,
    /// Alias, a free text set by its owner.
    pub alias: Option<String>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
}

/// `struct ifinfomsg` without a family: the link, and the flags to change.
fn fixed(index: u32, flags: u32, change: u32) -> [u8; FIXED] {
    let mut bytes = [0; FIXED];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// Makes a bridge with a hardware address that ports do not change, and an alias that marks its owner, in one message:
/// a process killed in between leaves no unmarked bridge.
pub fn add_bridge(socket: &mut Socket, name: &str, mac: [u8; 6], alias: &str) -> io::Result<()> {
    let make = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        .fixed(&fixed(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .put(IFLA_ADDRESS, &mac)
        .nest(IFLA_LINKINFO, |info| info.put(IFLA_INFO_KIND, b"bridge"));
    let mark =
        Message::new(RTM_NEWLINK, 0).fixed(&fixed(0, 0, 0)).text(IFLA_IFNAME, name).put(IFLA_IFALIAS, alias.as_bytes());
    socket.requests(vec![make, mark])
}

/// Sets the alias of a link, which marks its owner.
pub fn set_alias(socket: &mut Socket, index: u32, alias: &str) -> io::Result<()> {
    socket.request(Message::new(RTM_NEWLINK, 0).fixed(&fixed(index, 0, 0)).put(IFLA_IFALIAS, alias.as_bytes()))
}

/// Sets the MTU of a link.
pub fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> io::Result<()> {
    socket.request(Message::new(RTM_NEWLINK, 0).fixed(&fixed(index, 0, 0)).number(IFLA_MTU, mtu))
}

/// Brings a link up.
pub fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(Message::new(RTM_NEWLINK, 0).fixed(&fixed(index, IFF_UP, IFF_UP)))
}

/// Makes a link a port of a bridge.
pub fn set_master(socket: &mut Socket, index: u32, bridge: u32) -> io::Result<()> {
    socket.request(Message::new(RTM_NEWLINK, 0).fixed(&fixed(index, 0, 0)).number(IFLA_MASTER, bridge))
}

/// Binds a bridge port to exactly one hardware address: the bridge learns nothing from its frames and sends it no
/// frames for others. An isolated port does not reach other isolated ports.
pub fn pin_port(socket: &mut Socket, index: u32, mac: [u8; 6], isolated: bool) -> io::Result<()> {
    const AF_BRIDGE: u8 = 7;
    const NUD_NOARP: u8 = 0x40;
    const NTF_MASTER: u8 = 0x04;
    socket.request(Message::new(RTM_NEWLINK, 0).fixed(&fixed(index, 0, 0)).nest(IFLA_LINKINFO, |info| {
        info.put(IFLA_INFO_SLAVE_KIND, b"bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.put(IFLA_BRPORT_LEARNING, &[0])
                .put(IFLA_BRPORT_UNICAST_FLOOD, &[0])
                .put(IFLA_BRPORT_ISOLATED, &[isolated.into()])
        })
    }))?;
    // struct ndmsg: family, interface, state, flags.
    let mut entry = [0; 12];
    entry[0] = AF_BRIDGE;
    entry[4..8].copy_from_slice(&index.to_ne_bytes());
    entry[8] = NUD_NOARP;
    entry[10] = NTF_MASTER;
    let flags = NLM_F_CREATE | crate::NLM_F_REPLACE;
    socket.request(Message::new(RTM_NEWNEIGH, flags).fixed(&entry).put(NDA_LLADDR, &mac))
}

/// Deletes a link.
pub fn delete(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(Message::new(RTM_DELLINK, 0).fixed(&fixed(index, 0, 0)))
}

/// Returns the link with this name; `None` when there is none.
pub fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let request = Message::new(RTM_GETLINK, 0).fixed(&fixed(0, 0, 0)).text(IFLA_IFNAME, name);
    match socket.ask(request) {
        Ok(reply) => Ok(parse(&reply)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the links of this namespace.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let replies = socket.dump(&Message::new(RTM_GETLINK, NLM_F_DUMP).fixed(&fixed(0, 0, 0)))?;
    Ok(replies.iter().filter_map(parse).collect())
}

fn parse(reply: &Reply) -> Option<Link> {
    let index = u32::from_ne_bytes(reply.body.get(4..8)?.try_into().ok()?);
    let mut link = Link { index, name: String::new(), alias: None, master: None, mac: None };
    for attribute in attributes(reply.body.get(FIXED..)?) {
        match attribute.kind {
            IFLA_IFNAME => attribute.as_text()?.clone_into(&mut link.name),
            IFLA_IFALIAS => link.alias = attribute.as_text().map(str::to_owned),
            IFLA_MASTER => link.master = attribute.as_u32(),
            IFLA_ADDRESS => link.mac = attribute.value.try_into().ok(),
            _ => {}
        }
    }
    (reply.kind == RTM_NEWLINK).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_loopback() {
        let mut socket = Socket::route().unwrap();
        let lo = find(&mut socket, "lo").unwrap().unwrap();
        assert!(list(&mut socket).unwrap().contains(&lo));
        assert_eq!((lo.name.as_str(), lo.master), ("lo", None));
        assert_eq!(find(&mut socket, "no-such-link").unwrap(), None);
    }
}
