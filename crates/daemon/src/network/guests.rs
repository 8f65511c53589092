//! VMs attached to the network; the resolver and the retries work from this list.

use super::Egress;
use crate::store::AddressSlot;
use banger_proto::{
    helper::{Attachment, Denial},
    name::{VmId, VmName},
};
use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most names remembered for the addresses of one VM.
const MAX_NAMES: usize = 1024;

/// A VM on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) vm: VmId,
    pub(crate) name: VmName,
    pub(crate) slot: AddressSlot,
    pub(crate) address: Ipv4Addr,
    pub(crate) egress: Egress,
}

impl Guest {
    /// The VM's attachment, for the helper.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            vm: self.vm.clone(),
            network: self.slot.network,
            host: self.slot.host,
            policy: self.egress.policy(),
        }
    }

    /// Whether two VMs see each other: they are on the same named network. On the default network each VM is isolated.
    fn can_see(&self, other: &Self) -> bool {
        self.vm == other.vm || (self.slot.network != 0 && self.slot.network == other.slot.network)
    }
}

/// Denied packets of a VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Denials {
    /// Packets denied since the VM was attached.
    pub(crate) packets: u64,
    /// Latest denials first, each with the name the VM resolved to that address.
    pub(crate) latest: Vec<(Denial, Option<String>)>,
}

/// Attached VMs, and VMs that are gone but could not be removed from the rules.
#[derive(Debug, Default)]
pub(super) struct Guests {
    by_address: Mutex<HashMap<Ipv4Addr, Arc<Guest>>>,
    names: Mutex<HashMap<VmId, HashMap<Ipv4Addr, String>>>,
    strays: Mutex<HashSet<VmId>>,
}

impl Guests {
    pub(super) fn insert(&self, guest: Guest) {
        self.strays().remove(&guest.vm);
        let mut guests = self.lock();
        guests.retain(|_, other| other.vm != guest.vm);
        guests.insert(guest.address, Arc::new(guest));
    }

    pub(super) fn remove(&self, vm: &VmId) {
        self.lock().retain(|_, guest| guest.vm != *vm);
        self.names().remove(vm);
    }

    /// Notes that nothing of a VM is left.
    pub(super) fn clear_stray(&self, vm: &VmId) {
        self.strays().remove(vm);
    }

    /// Notes that something of a detached VM is left. Returns whether it is the first such VM.
    pub(super) fn mark_stray(&self, vm: &VmId) -> bool {
        let mut strays = self.strays();
        strays.insert(vm.clone()) && strays.len() == 1
    }

    pub(super) fn is_stray(&self, vm: &VmId) -> bool {
        self.strays().contains(vm)
    }

    pub(super) fn has_strays(&self) -> bool {
        !self.strays().is_empty()
    }

    /// Notes that nothing of detached VMs is left.
    pub(super) fn clear_strays(&self) {
        self.strays().clear();
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

    /// The VM that has an address.
    pub(super) fn by_address(&self, address: Ipv4Addr) -> Option<Arc<Guest>> {
        self.lock().get(&address).cloned()
    }

    /// Address of the VM called `name`, if `asker` may know it.
    pub(super) fn peer(&self, asker: &Guest, name: &str) -> Option<Ipv4Addr> {
        self.lock()
            .values()
            .find(|guest| guest.name.as_str() == name && asker.can_see(guest))
            .map(|guest| guest.address)
    }

    /// Name of the VM with an address, if `asker` may know it.
    pub(super) fn peer_name(&self, asker: &Guest, address: Ipv4Addr) -> Option<VmName> {
        self.lock().get(&address).filter(|guest| asker.can_see(guest)).map(|guest| guest.name.clone())
    }

    /// Remembers the name a VM resolved to these addresses, as long as the VM is attached.
    pub(super) fn remember(&self, vm: &VmId, addresses: &[Ipv4Addr], name: &str) {
        // Locked first: if the VM is removed meanwhile, its names are forgotten afterwards.
        let mut names = self.names();
        if self.by_vm(vm).is_none() {
            return;
        }
        let names = names.entry(vm.clone()).or_default();
        for address in addresses {
            if names.len() >= MAX_NAMES {
                // Happens rarely, and only costs the names shown beside addresses.
                names.clear();
            }
            names.insert(*address, name.to_owned());
        }
    }

    /// The name a VM asked for when it got this address.
    pub(super) fn asked(&self, vm: &VmId, address: Ipv4Addr) -> Option<String> {
        self.names().get(vm)?.get(&address).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Arc<Guest>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, HashMap<VmId, HashMap<Ipv4Addr, String>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strays(&self) -> MutexGuard<'_, HashSet<VmId>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::network) fn guest(name: &str, network: u8, host: u16) -> Guest {
        let vm = format!("{:0>12}", format!("{network:x}{host:x}")).parse().unwrap();
        let address = Ipv4Addr::new(10, 213, network * 4, u8::try_from(host).unwrap());
        let egress = Egress::new(true, [], []);
        Guest { vm, name: name.parse().unwrap(), slot: AddressSlot { network, host }, address, egress }
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

    #[test]
    fn who_asks_for_many_names_forgets_its_own() {
        let guests = Guests::default();
        let [quiet, busy] = [guest("a", 0, 2), guest("b", 0, 3)];
        for guest in [&quiet, &busy] {
            guests.insert(guest.clone());
        }
        let address = |n: u32| Ipv4Addr::from(0x0909_0000 + n);
        guests.remember(&quiet.vm, &[address(1)], "quiet.example");
        let many: Vec<_> = (0..u32::try_from(MAX_NAMES).unwrap() + 2).map(address).collect();
        guests.remember(&busy.vm, &many, "busy.example");
        assert_eq!(guests.asked(&quiet.vm, address(1)).as_deref(), Some("quiet.example"));
        assert_eq!(guests.asked(&busy.vm, *many.last().unwrap()).as_deref(), Some("busy.example"));
        assert_eq!(guests.asked(&busy.vm, address(1)), None);
        guests.remove(&busy.vm);
        guests.remember(&busy.vm, &many, "too.late.example");
        assert!(!guests.names().contains_key(&busy.vm));
    }

    #[test]
    fn a_stray_is_one_until_it_is_gone_or_comes_back() {
        let guests = Guests::default();
        let [a, b] = [guest("a", 1, 2), guest("b", 1, 3)];
        guests.insert(a.clone());
        guests.remove(&a.vm);
        assert!(guests.mark_stray(&a.vm), "the first is to be seen to");
        assert!(!guests.mark_stray(&a.vm) && !guests.mark_stray(&b.vm), "and by one");
        guests.insert(a.clone());
        assert!(!guests.is_stray(&a.vm) && guests.is_stray(&b.vm));
        guests.remove(&b.vm);
        assert!(guests.has_strays(), "that is not enough");
        guests.clear_stray(&b.vm);
        assert!(!guests.has_strays());
    }
}
