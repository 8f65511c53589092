//! Who is attached: what the resolver and the repair go by.

use super::Egress;
use crate::store::Seat;
use banger_proto::{
    helper::{Attachment, Denial},
    name::{VmId, VmName},
};
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names of addresses that are remembered, for all VMs together.
const MAX_NAMES: usize = 8192;

/// A VM on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) vm: VmId,
    pub(crate) name: VmName,
    pub(crate) seat: Seat,
    pub(crate) address: Ipv4Addr,
    pub(crate) egress: Egress,
}

impl Guest {
    /// For the helper.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            vm: self.vm.clone(),
            network: self.seat.network,
            host: self.seat.host,
            policy: self.egress.policy(),
        }
    }

    /// Whether two VMs see each other: on one named network. On the network of all others everybody is alone.
    fn sees(&self, other: &Self) -> bool {
        self.vm == other.vm || (self.seat.network != 0 && self.seat.network == other.seat.network)
    }
}

/// What was denied to a VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Denials {
    /// Packets, since it was attached.
    pub(crate) packets: u64,
    /// The latest first, each with the name it was asked for by.
    pub(crate) latest: Vec<(Denial, Option<String>)>,
}

/// The VMs that are attached.
#[derive(Debug, Default)]
pub(super) struct Guests {
    by_address: Mutex<HashMap<Ipv4Addr, Arc<Guest>>>,
    names: Mutex<HashMap<(VmId, Ipv4Addr), String>>,
}

impl Guests {
    pub(super) fn insert(&self, guest: Guest) {
        let mut guests = self.lock();
        guests.retain(|_, other| other.vm != guest.vm);
        guests.insert(guest.address, Arc::new(guest));
    }

    pub(super) fn remove(&self, vm: &VmId) {
        self.lock().retain(|_, guest| guest.vm != *vm);
        self.names().retain(|(of, _), _| of != vm);
    }

    pub(super) fn all(&self) -> Vec<Arc<Guest>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn by_vm(&self, vm: &VmId) -> Option<Arc<Guest>> {
        self.lock().values().find(|guest| guest.vm == *vm).cloned()
    }

    /// Whose address it is.
    pub(super) fn by_address(&self, address: Ipv4Addr) -> Option<Arc<Guest>> {
        self.lock().get(&address).cloned()
    }

    /// The address of the VM called `name`, if `asker` may know it.
    pub(super) fn peer(&self, asker: &Guest, name: &str) -> Option<Ipv4Addr> {
        self.lock().values().find(|guest| guest.name.as_str() == name && asker.sees(guest)).map(|guest| guest.address)
    }

    /// The name of the VM with an address, if `asker` may know it.
    pub(super) fn peer_name(&self, asker: &Guest, address: Ipv4Addr) -> Option<VmName> {
        self.lock().get(&address).filter(|guest| asker.sees(guest)).map(|guest| guest.name.clone())
    }

    /// Remembers what a VM asked for by name.
    pub(super) fn remember(&self, vm: &VmId, addresses: &[Ipv4Addr], name: &str) {
        let mut names = self.names();
        for address in addresses {
            if names.len() >= MAX_NAMES {
                // Rarely, and what is lost is a name beside an address.
                names.clear();
            }
            names.insert((vm.clone(), *address), name.to_owned());
        }
    }

    /// What a VM asked for when it got this address.
    pub(super) fn asked(&self, vm: &VmId, address: Ipv4Addr) -> Option<String> {
        self.names().get(&(vm.clone(), address)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Arc<Guest>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, HashMap<(VmId, Ipv4Addr), String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::network) fn guest(name: &str, network: u8, host: u16) -> Guest {
        let vm = format!("{:0>12}", format!("{network:x}{host:x}")).parse().unwrap();
        let address = Ipv4Addr::new(10, 213, network * 4, u8::try_from(host).unwrap());
        let egress = Egress::new(true, [], []);
        Guest { vm, name: name.parse().unwrap(), seat: Seat { network, host }, address, egress }
    }

    #[test]
    fn peers_are_those_on_one_named_network() {
        let guests = Guests::default();
        let [a, b, c, d] = [guest("a", 0, 2), guest("b", 0, 3), guest("c", 1, 2), guest("d", 1, 3)];
        for guest in [&a, &b, &c, &d] {
            guests.insert(guest.clone());
        }
        assert_eq!(guests.peer(&a, "a"), Some(a.address));
        assert_eq!(guests.peer(&a, "b"), None, "alone");
        assert_eq!(guests.peer(&a, "c"), None, "elsewhere");
        assert_eq!(guests.peer(&c, "d"), Some(d.address));
        assert_eq!(guests.peer_name(&c, d.address), Some(d.name.clone()));
        guests.remove(&d.vm);
        assert_eq!((guests.peer(&c, "d"), guests.peer_name(&c, d.address)), (None, None));
    }
}
