//! IPv4 addresses and routes.

use crate::{Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Socket, attributes};
use std::{io, net::Ipv4Addr};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// Length of `struct ifaddrmsg`, in bytes.
const ADDRESS_FIXED: usize = 8;
/// Length of `struct rtmsg`, in bytes.
const ROUTE_FIXED: usize = 12;

/// Adds an address to a link; no error if it has the address already.
pub fn add_address(socket: &mut Socket, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut fixed = [0; ADDRESS_FIXED];
    fixed[0] = AF_INET;
    fixed[1] = prefix;
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    socket.request(
        Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)
            .fixed(&fixed)
            .put(IFA_LOCAL, &address.octets())
            .put(IFA_ADDRESS, &address.octets()),
    )
}

/// Adds a default route through a gateway.
pub fn add_default(socket: &mut Socket, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
    let fixed = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    socket.request(
        Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
            .fixed(&fixed)
            .number(RTA_OIF, index)
            .put(RTA_GATEWAY, &gateway.octets()),
    )
}

/// Lists the IPv4 addresses of this namespace.
pub fn addresses(socket: &mut Socket) -> io::Result<Vec<Ipv4Addr>> {
    let mut fixed = [0; ADDRESS_FIXED];
    fixed[0] = AF_INET;
    let replies = socket.dump(&Message::new(RTM_GETADDR, NLM_F_DUMP).fixed(&fixed))?;
    let of = |body: &[u8]| {
        let local = attributes(body.get(ADDRESS_FIXED..)?).find(|attribute| attribute.kind == IFA_LOCAL)?;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(local.value).ok()?))
    };
    Ok(replies.iter().filter(|reply| reply.kind == RTM_NEWADDR).filter_map(|reply| of(&reply.body)).collect())
}

/// Route to a block of addresses through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// First address of the destination.
    pub first: Ipv4Addr,
    /// Prefix length of the destination.
    pub prefix: u8,
    /// Index of the link; none if there are several.
    pub link: Option<u32>,
}

/// Lists the IPv4 routes of all tables, including those to this namespace's own addresses.
pub fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[0] = AF_INET;
    let replies = socket.dump(&Message::new(RTM_GETROUTE, NLM_F_DUMP).fixed(&fixed))?;
    let of = |body: &[u8]| {
        let (fixed, rest) = body.split_first_chunk::<ROUTE_FIXED>()?;
        let mut route = Route { first: Ipv4Addr::UNSPECIFIED, prefix: fixed[1], link: None };
        for attribute in attributes(rest) {
            match attribute.kind {
                RTA_DST => route.first = <[u8; 4]>::try_from(attribute.value).ok()?.into(),
                RTA_OIF => route.link = attribute.as_u32(),
                _ => {}
            }
        }
        (fixed[0] == AF_INET).then_some(route)
    };
    Ok(replies.iter().filter(|reply| reply.kind == RTM_NEWROUTE).filter_map(|reply| of(&reply.body)).collect())
}

/// Whether there is an IPv4 default route.
pub fn has_default(socket: &mut Socket) -> io::Result<bool> {
    let mut fixed = [0; ROUTE_FIXED];
    fixed[0] = AF_INET;
    let replies = socket.dump(&Message::new(RTM_GETROUTE, NLM_F_DUMP).fixed(&fixed))?;
    // struct rtmsg: the second byte is the prefix length of the destination, the eighth the type of route.
    Ok(replies.iter().any(|reply| {
        matches!(reply.body[..], [AF_INET, 0, _, _, RT_TABLE_MAIN, _, _, RTN_UNICAST, ..]) && reply.kind == RTM_NEWROUTE
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_listed() {
        let mut socket = Socket::route().unwrap();
        assert!(addresses(&mut socket).unwrap().contains(&Ipv4Addr::LOCALHOST));
        has_default(&mut socket).unwrap();
        let routes = routes(&mut socket).unwrap();
        let own = |route: &Route| (route.first, route.prefix, route.link) == (Ipv4Addr::LOCALHOST, 32, Some(1));
        assert!(routes.iter().any(own), "{routes:?}");
    }
}
