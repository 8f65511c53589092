//! Records the destinations of IPv4 packets on all links of a namespace.

use crate::guest::SOON;
use banger_testkit::{NetNamespace, wait_until};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

/// `ETH_P_IP` in network byte order.
const IPV4: u32 = 0x0800_u16.to_be() as u32;

/// Packets seen so far.
#[derive(Debug, Clone)]
pub(crate) struct Sniffer(Arc<Mutex<BTreeSet<Ipv4Addr>>>);

impl Sniffer {
    pub(crate) fn new(space: &NetNamespace) -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let note = seen.clone();
        let socket = space.run(|| {
            let protocol = Protocol::from_raw(NonZeroU32::new(IPV4).unwrap());
            socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol)).unwrap()
        });
        // The thread ends with the test.
        std::thread::spawn(move || {
            let mut packet = vec![0; 70_000];
            while let Ok((_, length)) = recv(&socket, &mut packet, RecvFlags::empty()) {
                let to = packet[..length].get(16..20).and_then(|to| <[u8; 4]>::try_from(to).ok());
                note.lock().unwrap().extend(to.map(Ipv4Addr::from));
            }
        });
        Self(seen)
    }

    pub(crate) fn saw(&self, to: Ipv4Addr) -> bool {
        self.0.lock().unwrap().contains(&to)
    }

    /// Waits for a packet that must arrive: earlier ones have arrived by then, or never will.
    #[track_caller]
    pub(crate) fn sees(&self, to: Ipv4Addr) {
        wait_until(SOON, &format!("a packet to {to}"), || {
            if self.saw(to) { Ok(()) } else { Err(format!("{:?}", self.0.lock().unwrap())) }
        });
    }
}
