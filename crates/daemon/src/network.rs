//! HostNetwork: where each VM stands, what it may reach, and the processes that make it so.
//!
//! The rules themselves are the helper's ([`helper`], `bangerd-root`), in a namespace of banger's own that a holder process
//! keeps ([`holder`]); [`lifecycle`] starts them with the first VM, brings back what dies and ends them after the last one. Names
//! are answered by [`dns`]. This file is what others see: slots, cards, policies. It does not know how a VM starts.

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

use crate::{
    record,
    shim::control::PLAN_FILE,
    store::{AddressSlot, Store, VmRow},
    vmm::plan,
};
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

/// The file a guest without a network card gets, so that a failing look-up explains itself.
const NO_NIC: &str = "# This VM has no network card: no name but its own resolves.\n";
/// The largest packet of a guest's card.
const MTU: u32 = 1500;

/// How far VMs reach, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Uplink {
    /// As far as their policies say.
    Auto,
    /// Each other.
    None,
    /// Nowhere: they get no network card.
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

/// What the configuration says of networks.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) uplink: Uplink,
    pub(crate) block: Cidr,
    /// Resolvers instead of the host's.
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) deny: Vec<Rule>,
    pub(crate) allow: Vec<Rule>,
}

/// What a guest must know about names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestNames {
    /// Its host name; `/etc/hosts` maps it to 127.0.1.1.
    pub(crate) hostname: String,
    /// Content of its `/etc/resolv.conf`. Never the host's: 127.0.0.53 means another machine there.
    pub(crate) resolv_conf: String,
}

/// A VM's network card, on both sides.
#[derive(Debug, Clone)]
pub(crate) struct NetworkInterface {
    pub(crate) host: plan::Network,
    pub(crate) guest: boot::Network,
}

/// The host's side of the VMs' network. Clones are the same.
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
    /// Whether everybody who was on the network when this daemon began is known.
    taken_over: AtomicBool,
    /// Whether somebody tries to bring the network back.
    retrying: AtomicBool,
    /// Why VMs have no network here, once that was found out.
    last_reason: Mutex<Option<String>>,
}

impl HostNetwork {
    /// Starts nothing yet. `helper` is the `bangerd-root` program; `state` and `vms` are directories of the layout.
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

    /// What the configuration says.
    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Gives a VM an address, written down. One that has it keeps it.
    pub(crate) async fn assign_address(&self, vm: &VmRow) -> Result<(), Failure> {
        if self.shared.settings.uplink == Uplink::Off {
            return Ok(());
        }
        let slot = self.shared.store.assign_address(&vm.id, vm.spec.network.name.as_ref()).await?;
        self.shared.slots().insert(vm.id.clone(), slot);
        Ok(())
    }

    /// Takes its address back.
    pub(crate) async fn release_address(&self, vm: &VmId) -> Result<(), Failure> {
        self.shared.store.release_address(vm).await?;
        self.shared.slots().remove(vm);
        Ok(())
    }

    /// A VM's address, whether it is on the network now or not.
    pub(crate) fn address(&self, vm: &VmId) -> Option<Ipv4Addr> {
        self.shared.address(*self.shared.slots().get(vm)?)
    }

    /// Whether a VM is on the network.
    pub(crate) fn is_attached(&self, vm: &VmId) -> bool {
        self.shared.guests.by_vm(vm).is_some()
    }

    /// Attaches a VM, under its policy. On a host where VMs have no network they start all the same; why is last_reason to the
    /// first, and again once one had a card or there is another reason.
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
            Err(reason) => {
                tracing::warn!(vm = %vm.name, reason, "a VM starts without a network");
                let known = last_reason.as_ref() == Some(&reason);
                *last_reason = Some(reason.clone());
                Ok(Attached::Without { news: (!known).then_some(reason) })
            }
        }
    }

    /// Puts a running VM under the policy its row has now.
    pub(crate) async fn update_policy(&self, vm: &VmRow) -> Result<(), Failure> {
        if self.shared.guests.by_vm(&vm.id).is_none() {
            return Ok(());
        }
        let guest = self.shared.guest(vm)?;
        lifecycle::attach(&self.shared, guest).await.map(drop).map_err(|reason| {
            Failure::new(Code::Unavailable, format!("the policy of VM {} cannot be changed", vm.name)).cause(reason)
        })
    }

    /// Whether a VM is on the network under the policy that this row of it has.
    pub(crate) fn is_under_policy(&self, vm: &VmRow) -> bool {
        let egress = Egress::of(&vm.spec.network, &self.shared.settings);
        self.shared.guests.by_vm(&vm.id).is_some_and(|guest| guest.egress == egress)
    }

    /// Detaches a VM. What is not attached is not missed.
    pub(crate) async fn detach(&self, vm: &VmId) -> Result<(), Failure> {
        lifecycle::detach(&self.shared, vm)
            .await
            .map_err(|reason| Failure::new(Code::Unavailable, "the VM's network cannot be taken away").cause(reason))
    }

    /// Where every VM stands, as earlier daemons wrote it down. Comes before [`Self::adopt`].
    pub(crate) async fn load_addresses(&self) -> Result<(), Failure> {
        let slots = self.shared.store.assigned_addresses().await?;
        self.shared.slots().extend(slots);
        Ok(())
    }

    /// Knows a VM that runs since an earlier daemon, if it has a card. Its end must not be seen before that, or nobody would
    /// take it off the network.
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

    /// Carries on what an earlier daemon left, now that all VMs are adopted. Nothing waits for it.
    pub(crate) fn take_over(&self) {
        // At once: a daemon that is told to end meanwhile leaves the network, and has to know that it may.
        self.shared.taken_over.store(true, Ordering::Relaxed);
        let shared = self.shared.clone();
        tokio::spawn(async move { lifecycle::take_over(&shared).await });
    }

    /// What was denied to a VM lately.
    pub(crate) async fn denials(&self, vm: &VmId) -> Result<guests::Denials, Failure> {
        let Some(address) = self.address(vm) else { return Ok(guests::Denials::default()) };
        lifecycle::denials(&self.shared, address)
            .await
            .map_err(|reason| Failure::new(Code::Unavailable, "the denials cannot be read").cause(reason))
    }

    /// Ends everything if no VM needs it: the daemon goes.
    pub(crate) async fn leave(&self) {
        lifecycle::leave(&self.shared).await;
    }

    /// The names of a VM. The first label of `<name>.vm` is its host name.
    pub(crate) fn guest_names(&self, vm: &VmName, has_nic: bool) -> GuestNames {
        let resolver = self.shared.gateway(0).filter(|_| has_nic);
        let resolv_conf = resolver.map_or_else(
            || NO_NIC.to_owned(),
            |resolver| format!("# banger's resolver\nnameserver {resolver}\nsearch vm\noptions edns0\n"),
        );
        GuestNames { hostname: vm.to_string(), resolv_conf }
    }
}

/// Whether a VM that starts has a card.
#[derive(Debug)]
pub(crate) enum Attached {
    /// It has.
    With(Box<NetworkInterface>),
    /// It has none; `news` is why, where that was not last_reason before.
    Without {
        /// Why.
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

    fn network_interface(&self, guest: &Guest, holder: crate::process::ProcessIdentity) -> NetworkInterface {
        // The helper derives the same.
        let (tap, mac) = (addressing::tap(&guest.vm), addressing::mac_text(guest.address));
        let gateway = self.gateway(guest.slot.network).expect("a network with an address has its first");
        NetworkInterface {
            host: plan::Network { tap, mac: mac.clone(), holder },
            guest: boot::Network { mac, address: guest.address, prefix: NETWORK_PREFIX, gateway, mtu: MTU },
        }
    }
}
