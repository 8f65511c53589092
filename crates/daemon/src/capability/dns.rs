//! The guest's host name and resolver. `<name>.vm` itself is answered from the list of attached VMs, so a name exists
//! exactly as long as its VM is attached.

use super::{Capability, Hook, Launch};
use crate::{network::HostNetwork, operation::Operation, store::VmRow};

pub(crate) struct DnsCapability {
    pub(crate) network: HostNetwork,
}

impl Capability for DnsCapability {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn phase(&self) -> &'static str {
        "network"
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            launch.names = Some(self.network.guest_names(&vm.name, launch.nic.is_some()));
            Ok(())
        })
    }
}
