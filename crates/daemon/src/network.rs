//! HostNetwork: the VMs' addresses and egress policies, and the processes that implement them.
//!
//! The firewall rules are applied by the helper ([`helper`], `bangerd-root`) in a network namespace of banger's own,
//! which a holder process keeps alive ([`holder`]). [`lifecycle`] starts these processes with the first VM, replaces
//! those that die and ends them after the last VM. [`dns`] answers the guests' name queries. This file is the interface
//! for the rest of the daemon: addresses, NICs, policies. It does not know how a VM starts.

mod changes;
mod dns;
mod guests;
mod helper;
mod holder;
mod lifecycle;
mod policy;

pub(crate) use dns::read_as_any;
pub(crate) use guests::Guest;
pub(crate) use policy::Egress;

use crate::store::{AddressSlot, Store, VmRow};
use banger_machine::{record, shim::control::PLAN_FILE, vmm::plan};
use banger_proto::{
    agent::boot,
    failure::{Code, Failure},
    helper::NETWORK_PREFIX,
    name::{VmId, VmName},
    network::{Cidr, Rule, addressing},
};
use guests::Guests;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// `/etc/resolv.conf` of a guest without a NIC, so that a failing look-up explains itself.
const NO_NIC: &str = "# This VM has no network card: no name but its own resolves.\n";
/// MTU of a guest's NIC, in bytes.
const MTU: u32 = 1500;

/// How far VMs may reach at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Uplink {
    /// As far as their policies say.
    Auto,
    /// Only each other.
    None,
    /// Nowhere: VMs get no NIC.
    Off,
}

impl std::str::FromStr for Uplink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is none of auto, none, off")),
        }
    }
}

impl std::fmt::Display for Uplink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Off => "off",
        })
    }
}

/// Network settings of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) uplink: Uplink,
    pub(crate) block: Cidr,
    /// Resolvers to ask instead of the host's.
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) deny: Vec<Rule>,
    pub(crate) allow: Vec<Rule>,
}

/// A guest's host name and resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestNames {
    /// Host name of the guest; `/etc/hosts` maps it to 127.0.1.1.
    pub(crate) hostname: String,
    /// Content of `/etc/resolv.conf`. Never the host's: its 127.0.0.53 would be another machine in the guest.
    pub(crate) resolv_conf: String,
}

/// NIC of a VM, its host and its guest side.
#[derive(Debug, Clone)]
pub(crate) struct NetworkInterface {
    pub(crate) host: plan::Network,
    pub(crate) guest: boot::Network,
}

/// Handle to the host's side of the VMs' network; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct HostNetwork {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    store: Store,
    state: PathBuf,
    vms: PathBuf,
    helper: PathBuf,
    slots: Mutex<HashMap<VmId, AddressSlot>>,
    guests: Guests,
    live: tokio::sync::Mutex<Option<lifecycle::Live>>,
    /// Whether all VMs that were on the network when this daemon started are known.
    taken_over: AtomicBool,
    /// Whether a task is retrying to start the network.
    retrying: AtomicBool,
    /// Last reason why VMs have no network on this host.
    last_reason: Mutex<Option<String>>,
}

impl HostNetwork {
    /// Creates the handle and starts nothing. `helper` is the `bangerd-root` program; `state` and `vms` are directories
    /// of the layout.
    pub(crate) fn new(settings: Settings, store: Store, state: PathBuf, vms: PathBuf, helper: PathBuf) -> Self {
        let shared = Shared {
            settings,
            store,
            state,
            vms,
            helper,
            slots: Mutex::default(),
            guests: Guests::default(),
            live: tokio::sync::Mutex::default(),
            taken_over: AtomicBool::default(),
            retrying: AtomicBool::default(),
            last_reason: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Network settings of the configuration.
    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Assigns an address to a VM and records it. A VM that has one keeps it.
    pub(crate) async fn assign_address(&self, vm: &VmRow) -> Result<(), Failure> {
        if self.shared.settings.uplink == Uplink::Off {
            return Ok(());
        }
        let slot = self.shared.store.assign_address(&vm.id, vm.spec.network.name.as_ref()).await?;
        self.shared.slots().insert(vm.id.clone(), slot);
        Ok(())
    }

    /// Releases a VM's address.
    pub(crate) async fn release_address(&self, vm: &VmId) -> Result<(), Failure> {
        self.shared.store.release_address(vm).await?;
        self.shared.slots().remove(vm);
        Ok(())
    }

    /// Address of a VM, whether or not it is on the network now.
    pub(crate) fn address(&self, vm: &VmId) -> Option<Ipv4Addr> {
        self.shared.address(*self.shared.slots().get(vm)?)
    }

    /// Whether a VM is on the network.
    pub(crate) fn is_attached(&self, vm: &VmId) -> bool {
        self.shared.guests.by_vm(vm).is_some()
    }

    /// Attaches a VM under its policy. On a host where VMs can have no network they start without one; the reason is
    /// reported to the first, and again after a VM had a NIC or when the reason changes.
    pub(crate) async fn attach(&self, vm: &VmRow) -> Result<Attached, Failure> {
        if self.shared.settings.uplink == Uplink::Off {
            return Ok(Attached::Without { news: None });
        }
        let guest = self.shared.guest(vm)?;
        let attached = lifecycle::attach(&self.shared, guest.clone()).await;
        let mut last_reason = self.shared.last_reason.lock().unwrap_or_else(PoisonError::into_inner);
        match attached {
            Ok(holder) => {
                *last_reason = None;
                Ok(Attached::With(Box::new(self.shared.network_interface(&guest, holder))))
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(vm = %vm.name, reason, "a VM starts without a network");
                let known = last_reason.as_ref() == Some(&reason);
                *last_reason = Some(reason.clone());
                Ok(Attached::Without { news: (!known).then_some(reason) })
            }
        }
    }

    /// Puts a running VM under the policy that its row has now.
    pub(crate) async fn update_policy(&self, vm: &VmRow) -> Result<(), Failure> {
        if self.shared.guests.by_vm(&vm.id).is_none() {
            return Ok(());
        }
        let guest = self.shared.guest(vm)?;
        lifecycle::attach(&self.shared, guest).await.map(drop).map_err(|error| {
            Failure::new(Code::Unavailable, format!("the policy of VM {} cannot be changed", vm.name))
                .cause(error.to_string())
        })
    }

    /// Whether a VM is on the network under the policy of this row.
    pub(crate) fn is_under_policy(&self, vm: &VmRow) -> bool {
        let egress = Egress::of(&vm.spec.network, &self.shared.settings);
        self.shared.guests.by_vm(&vm.id).is_some_and(|guest| guest.egress == egress)
    }

    /// Detaches a VM; no error if it is not attached.
    pub(crate) async fn detach(&self, vm: &VmId) -> Result<(), Failure> {
        lifecycle::detach(&self.shared, vm).await.map_err(|error| {
            Failure::new(Code::Unavailable, "the VM's network cannot be taken away").cause(error.to_string())
        })
    }

    /// Loads the addresses that earlier daemons assigned. Must come before [`Self::adopt`].
    pub(crate) async fn load_addresses(&self) -> Result<(), Failure> {
        let slots = self.shared.store.assigned_addresses().await?;
        self.shared.slots().extend(slots);
        Ok(())
    }

    /// Registers a VM that has been running since an earlier daemon, if it has a NIC. Must come before its end can be
    /// noticed, or nothing would take it off the network.
    pub(crate) fn adopt(&self, vm: &VmRow) {
        let directory = self.shared.vms.join(vm.id.as_str());
        match record::read::<plan::LaunchPlan>(&directory, PLAN_FILE) {
            Ok(Some(plan)) if plan.network.is_some() => match self.shared.guest(vm) {
                Ok(guest) => self.shared.guests.insert(guest),
                Err(failure) => tracing::error!(vm = %vm.name, %failure, "it is left without its network"),
            },
            Ok(_) => {}
            Err(error) => tracing::error!(vm = %vm.name, %error, "whether it has a network card cannot be read"),
        }
    }

    /// Continues or ends the network of an earlier daemon, in the background, once all VMs are adopted.
    pub(crate) fn take_over(&self) {
        // Set at once: a daemon told to stop meanwhile ends an unused network, and must know that it may.
        self.shared.taken_over.store(true, Ordering::Relaxed);
        let shared = self.shared.clone();
        tokio::spawn(async move { lifecycle::take_over(&shared).await });
    }

    /// Recent denials of a VM's packets.
    pub(crate) async fn denials(&self, vm: &VmId) -> Result<guests::Denials, Failure> {
        let Some(address) = self.address(vm) else { return Ok(guests::Denials::default()) };
        lifecycle::denials(&self.shared, address)
            .await
            .map_err(|error| Failure::new(Code::Unavailable, "the denials cannot be read").cause(error.to_string()))
    }

    /// Ends the network if no VM needs it, when the daemon stops.
    pub(crate) async fn stop_if_unused(&self) {
        lifecycle::stop_if_unused(&self.shared).await;
    }

    /// Names for a VM. The first label of `<name>.vm` is its host name.
    pub(crate) fn guest_names(&self, vm: &VmName, has_nic: bool) -> GuestNames {
        let resolver = self.shared.gateway(0).filter(|_| has_nic);
        let resolv_conf = resolver.map_or_else(
            || NO_NIC.to_owned(),
            |resolver| format!("# banger's resolver\nnameserver {resolver}\nsearch vm\noptions edns0\n"),
        );
        GuestNames { hostname: vm.to_string(), resolv_conf }
    }
}

/// Whether a starting VM has a NIC.
#[derive(Debug)]
pub(crate) enum Attached {
    /// The VM has a NIC.
    With(Box<NetworkInterface>),
    /// The VM has none.
    Without {
        /// The reason, unless it was reported before.
        news: Option<String>,
    },
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<VmId, AddressSlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, slot: AddressSlot) -> Option<Ipv4Addr> {
        addressing::address(self.settings.block, slot.network, slot.host)
    }

    fn gateway(&self, network: u8) -> Option<Ipv4Addr> {
        addressing::gateway(self.settings.block, network)
    }

    fn guest(&self, vm: &VmRow) -> Result<Guest, Failure> {
        let slot = self.slots().get(&vm.id).copied();
        let slot = slot.and_then(|slot| Some((slot, self.address(slot)?)));
        let (slot, address) =
            slot.ok_or_else(|| Failure::new(Code::Internal, format!("VM {} has no address", vm.name)))?;
        let egress = Egress::of(&vm.spec.network, &self.settings);
        Ok(Guest { vm: vm.id.clone(), name: vm.name.clone(), slot, address, egress })
    }

    fn network_interface(&self, guest: &Guest, holder: banger_machine::process::ProcessIdentity) -> NetworkInterface {
        // The helper derives the same values.
        let (tap, mac) = (addressing::tap(&guest.vm), addressing::mac(guest.address));
        let gateway = self.gateway(guest.slot.network).expect("a network with an address has its first");
        NetworkInterface {
            host: plan::Network { tap, mac, holder },
            guest: boot::Network { mac, address: guest.address, prefix: NETWORK_PREFIX, gateway, mtu: MTU },
        }
    }
}
