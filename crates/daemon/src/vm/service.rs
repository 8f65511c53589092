//! The service as others see it: VMs by reference, and what can be asked of them.

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
    images::ImageService,
    network::HostNetwork,
    operation::Operation,
    shim::client::{Shim, Shims},
    store::{Store, VmRow},
    vmm::{host::Probe, select::Choice},
    workspace::WorkspaceService,
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

/// What every VM's task works with.
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
    /// Whether somebody was told that guests run in software.
    pub(crate) said_software: AtomicBool,
}

/// Every VM's life.
pub(crate) struct VmService {
    pub(super) parts: Arc<Parts>,
    handles: Mutex<HashMap<VmId, VmHandle>>,
    /// There is a VM the expiry has not looked at.
    pub(super) new_vm: Arc<Notify>,
}

impl Drop for VmService {
    fn drop(&mut self) {
        // Who looks after VMs has nothing left to look after.
        self.new_vm.notify_one();
    }
}

impl VmService {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts: Arc::new(parts), handles: Mutex::default(), new_vm: Arc::default() })
    }

    /// Begins to look after age and idleness; goes on until the service is gone.
    pub(crate) fn start_expiry(self: &Arc<Self>) {
        tokio::spawn(expiry::run(Arc::downgrade(self)));
    }

    /// All VMs, oldest first; with `running` only those with a VMM, or about to have one.
    pub(crate) async fn list(&self, running: bool) -> Result<Vec<Vm>, Failure> {
        let rows = self.parts.store.vms().await?;
        let shown = rows.into_iter().map(|row| (self.shown(&row), row));
        let wanted = shown.filter(|(state, _)| !running || state.is_live());
        Ok(wanted.map(|(state, row)| view::vm(&self.parts, row, state)).collect())
    }

    /// One VM as the API shows it.
    pub(crate) async fn show(&self, reference: &str) -> Result<Vm, Failure> {
        let row = self.find(reference).await?;
        let state = self.shown(&row);
        Ok(view::vm(&self.parts, row, state))
    }

    /// The state others see: that of a row, unless somebody's start has begun and has not written it yet.
    fn shown(&self, row: &VmRow) -> VmState {
        let live = self.handles().get(&row.id).map(|handle| *handle.live.borrow());
        live.map_or(row.state, |live| LiveState { state: row.state, ..live }.shown())
    }

    /// The VM a name, an id or a unique prefix of an id means.
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

    /// Asks a VM for something and waits until it is done.
    pub(crate) async fn ask(&self, id: &VmId, op: Op, operation: &Operation) -> Result<(), Failure> {
        let handle = self.handles().get(id).cloned();
        let gone = || no_vm(id.as_str());
        let (command, answer) = Command::new(op, operation);
        handle.ok_or_else(gone)?.commands.send(command).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Asks for something and returns the VM as it is afterwards.
    pub(crate) async fn change(&self, reference: &str, op: Op, operation: &Operation) -> Result<Vm, Failure> {
        let id = self.find(reference).await?.id;
        self.ask(&id, op, operation).await?;
        self.show(id.as_str()).await
    }

    /// Writes down the repository that was brought into a VM.
    pub(crate) async fn record_workspace(&self, reference: &str, said: RecordWorkspace) -> Result<Workspace, Failure> {
        let workspace = self.parts.workspaces.record(said)?;
        let id = self.find(reference).await?.id;
        if self.parts.store.set_workspace(&id, &workspace).await? { Ok(workspace) } else { Err(no_vm(reference)) }
    }

    /// Deletes a VM. One that is gone when its turn comes, by somebody else's deletion or because its creation was taken back,
    /// is deleted: that is what was wanted.
    pub(crate) async fn delete(&self, id: &VmId, force: bool, operation: &Operation) -> Result<(), Failure> {
        match self.ask(id, Op::Delete { force }, operation).await {
            Err(failure) if failure.code == Code::NotFound && self.parts.store.vm(id).await?.is_none() => Ok(()),
            done => done,
        }
    }

    /// Tells when this VM changes.
    pub(crate) fn watch_state(&self, id: &VmId) -> StateWatch {
        StateWatch::of(self.handles().get(id).map(|handle| handle.live.clone()))
    }

    /// Gives a VM its task. `shim` is its running machine, if it has one; one that has not answered yet is waited for.
    pub(super) fn adopt(self: &Arc<Self>, row: VmRow, shim: Option<Shim>) {
        let mailbox = ReservedMailbox::new(self, &row.id, LiveState::of(row.state, false));
        self.enroll(mailbox, Owner::new(self.parts.clone(), row, shim), None);
    }

    /// Gives a VM that was just made its task.
    pub(super) fn adopt_new(self: &Arc<Self>, row: VmRow, mailbox: ReservedMailbox) {
        self.enroll(mailbox, Owner::new(self.parts.clone(), row, None), None);
        self.new_vm.notify_one();
    }

    /// The same, and has it started before anything else that was asked of it. `clock` has run since the VM was asked
    /// for.
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
        self.enroll(mailbox, owner, Some(command));
        self.new_vm.notify_one();
        answer.await.unwrap_or(Err(gone))
    }

    fn enroll(self: &Arc<Self>, mailbox: ReservedMailbox, mut owner: Owner, first: Option<Command>) {
        let id = owner.row.id.clone();
        let (commands, live) = mailbox.take();
        live.send_modify(|live| live.coming_up = first.is_some());
        owner.publish_to(live);
        let service = Arc::downgrade(self);
        tokio::spawn(async move {
            // Where a panic does not end the process by itself, as it does in a release, this one would leave a VM that runs
            // and that nobody answers for. VMs go on, and the next daemon finds out about all of them.
            if AssertUnwindSafe(task::run(owner, commands, first)).catch_unwind().await.is_err() {
                std::process::abort();
            }
            if let Some(service) = service.upgrade() {
                service.handles().remove(&id);
            }
        });
    }

    /// A VM with nobody to do what is asked of it: whoever asks waits, until the result is dropped.
    #[cfg(test)]
    pub(super) fn enroll_idler(self: &Arc<Self>, row: &VmRow) -> tokio::sync::mpsc::Receiver<Command> {
        ReservedMailbox::new(self, &row.id, LiveState::of(row.state, false)).take().0
    }

    pub(super) fn handles(&self) -> MutexGuard<'_, HashMap<VmId, VmHandle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// The monitor that is wanted, of a VM that says this.
    pub(super) fn wanted(&self, asked: Option<VmmChoice>) -> VmmChoice {
        asked.unwrap_or(self.config.vmm.value)
    }

    /// What the machine of a VM that says this would run on now.
    pub(super) async fn choose(&self, asked: Option<VmmChoice>) -> Result<(Choice, Option<u32>), Failure> {
        let facts = crate::vmm::host::HostFacts::probe(&self.probe)
            .await
            .map_err(|error| crate::failures::because(Code::Internal, "cannot look at this host", &error))?;
        let choice = crate::vmm::select::select(self.wanted(asked).named(), &facts)?;
        Ok((choice, facts.tsc_khz))
    }
}

/// There is no such VM.
pub(super) fn no_vm(reference: &str) -> Failure {
    let shown: String = reference.chars().take(80).collect();
    Failure::new(Code::NotFound, format!("no VM {shown:?}")).hint("`banger vm list` shows the VMs there are")
}
