//! The service's interface: VMs by reference, and the operations on them.

use super::{
    Op, expiry,
    live_state::{LiveState, StateWatch},
    mailbox::{ReservedMailbox, VmHandle},
    owner::Owner,
    phases::PhaseClock,
    task::{self, Command},
    view,
};
use crate::{
    capability::Capabilities,
    config::Config,
    failures::Explain,
    images::ImageService,
    network::HostNetwork,
    operation::Operation,
    store::{Store, VmRow},
    workspace::WorkspaceService,
};
use banger_machine::{
    shim::client::{Shim, Shims},
    vmm::{
        host::Probe,
        select::{self, Choice},
    },
};
use banger_proto::{
    api::{
        vm::{Vm, VmState, VmmChoice},
        workspace::{RecordWorkspace, Workspace},
    },
    failure::{Code, Failure},
    layout::Layout,
    name::{VmId, VmName},
};
use futures_util::FutureExt as _;
use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};
use tokio::sync::Notify;

/// Everything that the VMs' tasks work with.
pub(crate) struct Parts {
    pub(crate) layout: Layout,
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) images: Arc<ImageService>,
    pub(crate) workspaces: Arc<WorkspaceService>,
    pub(crate) network: HostNetwork,
    pub(crate) shims: Shims,
    pub(crate) probe: Probe,
    pub(crate) capabilities: Capabilities,
    /// Whether it was reported that guests run under software emulation.
    pub(crate) reported_software: AtomicBool,
}

/// The service that owns every VM's life.
pub(crate) struct VmService {
    pub(super) parts: Arc<Parts>,
    handles: Mutex<HashMap<VmId, VmHandle>>,
    /// Notified when a VM was created that the expiry checks do not know yet.
    pub(super) new_vm: Arc<Notify>,
}

impl Drop for VmService {
    fn drop(&mut self) {
        // Wakes the expiry checks, so that they end.
        self.new_vm.notify_one();
    }
}

impl VmService {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts: Arc::new(parts), handles: Mutex::default(), new_vm: Arc::default() })
    }

    /// Starts the checks for age and idleness. They run until the service is gone.
    pub(crate) fn start_expiry(self: &Arc<Self>) {
        tokio::spawn(expiry::run(Arc::downgrade(self)));
    }

    /// Lists all VMs, oldest first; with `running` only those that have a VMM or are about to.
    pub(crate) async fn list(&self, running: bool) -> Result<Vec<Vm>, Failure> {
        let rows = self.parts.store.vms().await?;
        let shown = rows.into_iter().map(|row| (self.shown(&row), row));
        let wanted = shown.filter(|(state, _)| !running || state.is_live());
        Ok(wanted.map(|(state, row)| view::vm(&self.parts, row, state)).collect())
    }

    /// Returns one VM as the API shows it.
    pub(crate) async fn show(&self, reference: &str) -> Result<Vm, Failure> {
        let row = self.find(reference).await?;
        let state = self.shown(&row);
        Ok(view::vm(&self.parts, row, state))
    }

    /// Returns the state to show: the row's, unless a start has begun that has not written the row yet.
    fn shown(&self, row: &VmRow) -> VmState {
        let live = self.handles().get(&row.id).map(|handle| *handle.live.borrow());
        live.map_or(row.state, |live| LiveState { state: row.state, ..live }.shown())
    }

    /// Finds a VM by its name, its id or a unique prefix of its id.
    pub(crate) async fn find(&self, reference: &str) -> Result<VmRow, Failure> {
        let store = &self.parts.store;
        if let Ok(name) = reference.parse::<VmName>()
            && let Some(row) = store.vm_named(&name).await?
        {
            return Ok(row);
        }
        let id_like = !reference.is_empty() && reference.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut matching = if id_like { store.vms().await? } else { Vec::new() };
        matching.retain(|row| row.id.as_str().starts_with(reference));
        match (matching.pop(), matching.len()) {
            (Some(row), 0) => Ok(row),
            (Some(_), _) => Err(Failure::new(Code::Invalid, format!("{reference:?} begins the ids of several VMs"))
                .hint("`banger vm list` shows their names")),
            (None, _) => Err(no_vm(reference)),
        }
    }

    /// Sends an operation to a VM's task and waits for its result.
    pub(crate) async fn ask(&self, id: &VmId, op: Op, operation: &Operation) -> Result<(), Failure> {
        let handle = self.handles().get(id).cloned();
        let gone = || no_vm(id.as_str());
        let (command, answer) = Command::new(op, operation);
        handle.ok_or_else(gone)?.commands.send(command).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Carries out an operation and returns the VM as it is afterwards.
    pub(crate) async fn change(&self, reference: &str, op: Op, operation: &Operation) -> Result<Vm, Failure> {
        let id = self.find(reference).await?.id;
        self.ask(&id, op, operation).await?;
        self.show(id.as_str()).await
    }

    /// Records the repository that was imported into a VM.
    pub(crate) async fn record_workspace(
        &self,
        reference: &str,
        report: RecordWorkspace,
    ) -> Result<Workspace, Failure> {
        let workspace = self.parts.workspaces.record(report)?;
        let id = self.find(reference).await?.id;
        if self.parts.store.set_workspace(&id, &workspace).await? { Ok(workspace) } else { Err(no_vm(reference)) }
    }

    /// Deletes a VM. It is a success as well if the VM is gone when the command is read, because another deletion was
    /// faster or its creation was undone.
    pub(crate) async fn delete(&self, id: &VmId, force: bool, operation: &Operation) -> Result<(), Failure> {
        match self.ask(id, Op::Delete { force }, operation).await {
            Err(failure) if failure.code == Code::NotFound && self.parts.store.vm(id).await?.is_none() => Ok(()),
            done => done,
        }
    }

    /// Subscribes to the VM's state.
    pub(crate) fn watch_state(&self, id: &VmId) -> StateWatch {
        StateWatch::of(self.handles().get(id).map(|handle| handle.live.clone()))
    }

    /// Starts the task of a VM. `shim` is its running machine, if any; the task waits for an agent that is not ready
    /// yet.
    pub(super) fn adopt(self: &Arc<Self>, row: VmRow, shim: Option<Shim>) {
        let mailbox = ReservedMailbox::new(self, &row.id, LiveState::of(row.state, false));
        self.spawn_task(mailbox, Owner::new(self.parts.clone(), row, shim), None);
    }

    /// Starts the task of a VM that was just created.
    pub(super) fn adopt_new(self: &Arc<Self>, row: VmRow, mailbox: ReservedMailbox) {
        self.spawn_task(mailbox, Owner::new(self.parts.clone(), row, None), None);
        self.new_vm.notify_one();
    }

    /// Does the same and starts the VM before any command that waits in its mailbox. `clock` has run since the creation
    /// was requested.
    pub(super) async fn adopt_and_start(
        self: &Arc<Self>,
        row: VmRow,
        mailbox: ReservedMailbox,
        clock: PhaseClock,
        start: Op,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let mut owner = Owner::new(self.parts.clone(), row, None);
        owner.clock = Some(clock);
        let gone = no_vm(owner.row.id.as_str());
        let (command, answer) = Command::new(start, operation);
        self.spawn_task(mailbox, owner, Some(command));
        self.new_vm.notify_one();
        answer.await.unwrap_or(Err(gone))
    }

    fn spawn_task(self: &Arc<Self>, mailbox: ReservedMailbox, mut owner: Owner, first: Option<Command>) {
        let id = owner.row.id.clone();
        let (commands, live) = mailbox.take();
        live.send_modify(|live| live.coming_up = first.is_some());
        owner.publish_to(live);
        let service = Arc::downgrade(self);
        tokio::spawn(async move {
            // In a release build a panic aborts the process. Elsewhere, a panic here would leave a running VM that
            // nobody answers for; so it aborts too. VMs go on, and the next daemon adopts them all.
            if AssertUnwindSafe(task::run(owner, commands, first)).catch_unwind().await.is_err() {
                std::process::abort();
            }
            if let Some(service) = service.upgrade() {
                service.handles().remove(&id);
            }
        });
    }

    /// Registers a VM whose task does nothing: commands wait until the returned mailbox is dropped.
    #[cfg(test)]
    pub(super) fn register_idle(self: &Arc<Self>, row: &VmRow) -> tokio::sync::mpsc::Receiver<Command> {
        ReservedMailbox::new(self, &row.id, LiveState::of(row.state, false)).take().0
    }

    pub(super) fn handles(&self) -> MutexGuard<'_, HashMap<VmId, VmHandle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// Returns the VMM that is wanted for a VM with this choice of its own.
    pub(super) fn wanted(&self, asked: Option<VmmChoice>) -> VmmChoice {
        asked.unwrap_or(self.config.vmm.value)
    }

    /// Returns the VMM and accelerator that a VM with this choice would get now.
    pub(super) async fn choose(&self, asked: Option<VmmChoice>) -> Result<(Choice, Option<u32>), Failure> {
        let facts = banger_machine::vmm::host::HostFacts::probe(&self.probe)
            .await
            .map_err(|error| crate::failures::because(Code::Internal, "cannot look at this host", &error))?;
        let choice = select::select(self.wanted(asked).named(), &facts).map_err(Explain::explain)?;
        Ok((choice, facts.tsc_khz))
    }
}

/// Builds the failure for an unknown VM.
pub(super) fn no_vm(reference: &str) -> Failure {
    let shown: String = reference.chars().take(80).collect();
    Failure::new(Code::NotFound, format!("no VM {shown:?}")).hint("`banger vm list` shows the VMs there are")
}
