//! A VM's ssh host key: made on demand, deleted with the VM.

use super::{Capability, Depth, Hook, nothing};
use crate::ssh::SshKeys;
use banger_proto::name::VmId;
use std::sync::Arc;

pub(crate) struct SshCapability {
    pub(crate) keys: Arc<SshKeys>,
}

impl Capability for SshCapability {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn phase(&self) -> &'static str {
        "ssh"
    }

    fn release<'a>(&'a self, vm: &'a VmId, depth: Depth) -> Hook<'a> {
        match depth {
            Depth::Machine => nothing(),
            Depth::Everything => Box::pin(self.keys.forget(vm)),
        }
    }
}
