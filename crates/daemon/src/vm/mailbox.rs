//! Mailboxes of the VMs' tasks: a VM has a handle from before its row exists until its task has ended.

use super::{VmService, live_state::LiveState, task::Command};
use banger_proto::name::VmId;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Number of commands that may wait in one VM's mailbox.
const CAPACITY: usize = 32;

/// Sender half of a VM task's mailbox, and the state that the task publishes.
#[derive(Debug, Clone)]
pub(super) struct VmHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) live: watch::Receiver<LiveState>,
}

/// Receiver half of a mailbox that has no task yet. Commands for a VM that is still being created wait in it until its
/// task takes it. Dropping it removes the VM's handle.
pub(super) struct ReservedMailbox {
    service: Arc<VmService>,
    id: VmId,
    sides: Option<(mpsc::Receiver<Command>, watch::Sender<LiveState>)>,
}

impl ReservedMailbox {
    pub(super) fn new(service: &Arc<VmService>, id: &VmId, live: LiveState) -> Self {
        let (commands, mailbox) = mpsc::channel(CAPACITY);
        let live = watch::Sender::new(live);
        service.handles().insert(id.clone(), VmHandle { commands, live: live.subscribe() });
        Self { service: service.clone(), id: id.clone(), sides: Some((mailbox, live)) }
    }

    /// Hands both ends over to the task, which removes the handle itself when the VM is gone.
    pub(super) fn take(mut self) -> (mpsc::Receiver<Command>, watch::Sender<LiveState>) {
        self.sides.take().expect("it is taken once, by whoever has it")
    }
}

impl Drop for ReservedMailbox {
    fn drop(&mut self) {
        if self.sides.is_some() {
            self.service.handles().remove(&self.id);
        }
    }
}
