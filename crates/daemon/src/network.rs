//! HostNetwork: what a guest is called and whom it asks for names.
//!
//! VMs have no network card yet, so a guest resolves itself and nothing else, and its resolver's file says so. Addresses,
//! policy and published ports join here; nobody else will decide them.

use banger_proto::name::VmName;

/// The file a guest without a network card gets, so that a failing look-up explains itself.
const NO_CARD: &str = "# This VM has no network card: no name but its own resolves.\n";

/// What a guest must know about names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestNames {
    /// Its host name; `/etc/hosts` maps it to 127.0.1.1.
    pub(crate) hostname: String,
    /// Content of its `/etc/resolv.conf`. Never the host's: 127.0.0.53 means another machine there.
    pub(crate) resolv_conf: String,
}

/// The host's side of the VMs' network.
#[derive(Debug, Default)]
pub(crate) struct HostNetwork;

impl HostNetwork {
    /// The names of a VM. The first label of `<name>.vm` is its host name.
    #[expect(clippy::unused_self, reason = "who is asked is the service, whatever it needs to answer")]
    pub(crate) fn guest_names(&self, vm: &VmName) -> GuestNames {
        GuestNames { hostname: vm.to_string(), resolv_conf: NO_CARD.to_owned() }
    }
}
