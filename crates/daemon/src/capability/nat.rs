//! The VM's NIC: an address as long as the VM exists, a tap and a policy for each start.

use super::{Capability, Depth, Hook, Launch};
use crate::{
    network::{Attached, Egress, HostNetwork, Uplink},
    operation::Operation,
    store::{VmRow, VmSpec},
};
use banger_machine::failpoint;
use banger_proto::{
    failure::{Code, Failure},
    name::VmId,
};

/// Keeps the kernel's name of the NIC, `eth0`.
const KEEP_NAME: &str = "net.ifnames=0";

pub(crate) struct NatCapability {
    pub(crate) network: HostNetwork,
}

impl Capability for NatCapability {
    fn name(&self) -> &'static str {
        "nat"
    }

    fn phase(&self) -> &'static str {
        "network"
    }

    fn preflight<'a>(&'a self, spec: &'a VmSpec, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            let settings = self.network.settings();
            if settings.uplink == Uplink::Off {
                return Ok(());
            }
            // It was checked at creation, with the configuration of that time.
            Egress::of(&spec.network, settings).check().map_err(|why| {
                Failure::new(Code::Invalid, why).hint("`banger vm set --allow … --deny …` gives the VM other rules")
            })
        })
    }

    fn prepare<'a>(&'a self, vm: &'a VmRow, _operation: &'a Operation) -> Hook<'a> {
        Box::pin(self.network.assign_address(vm))
    }

    fn contribute<'a>(&'a self, vm: &'a VmRow, launch: &'a mut Launch, operation: &'a Operation) -> Hook<'a> {
        Box::pin(async {
            // For VMs created before there were networks, or while they were off.
            self.network.assign_address(vm).await?;
            failpoint::hit("start.seated").await;
            match self.network.attach(vm).await? {
                Attached::With(nic) => {
                    launch.nic = Some(*nic);
                    launch.kernel_args.push(KEEP_NAME.to_owned());
                }
                Attached::Without { news: Some(why) } => {
                    operation.notice(format!("VMs have no network here: {why} (`banger doctor` says more)"));
                }
                Attached::Without { news: None } => {}
            }
            Ok(())
        })
    }

    fn release<'a>(&'a self, vm: &'a VmId, depth: Depth) -> Hook<'a> {
        Box::pin(async move {
            self.network.detach(vm).await?;
            failpoint::hit("release.detached").await;
            match depth {
                Depth::Machine => Ok(()),
                Depth::Everything => self.network.release_address(vm).await,
            }
        })
    }
}
