//! Creating a VM: everything is checked and pulled first, then the name is taken, then the disk is made.

use super::{
    Op, VmService, admission, age,
    live_state::LiveState,
    mailbox::ReservedMailbox,
    naming,
    phases::PhaseClock,
    release::release,
    set::network,
    spec::{chosen, shape},
    start, view,
};
use crate::{
    capability::Depth,
    config::Config,
    failures,
    operation::Operation,
    random,
    store::{Lease, NetworkSpec, Run, StoreError, VmRow, VmSpec},
};
use banger_machine::{
    failpoint,
    process::{ProcessIdentity, host_boot_id},
};
use banger_proto::{
    api::vm::{CreateVm, Start, Vm, VmState},
    failure::{Code, Failure},
    name::{VmId, VmName},
    size::ByteSize,
};
use std::{sync::Arc, time::Duration};

/// Shortest time to live.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Number of generated names that are tried.
const NAME_TRIES: u32 = 64;

impl VmService {
    /// Creates a VM and starts it if that was requested. A lease is tied to the process `client`.
    ///
    /// A request that fails or is cancelled leaves nothing behind, with one exception: a VM whose machine ran but whose
    /// agent never answered is kept, so that its console can be read.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: CreateVm,
        client: Option<ProcessIdentity>,
        operation: &Operation,
    ) -> Result<Vm, Failure> {
        let (start, wait) = (request.start, request.wait);
        let mut clock = PhaseClock::start();
        let (name, spec) = self.resolve(request, operation).await?;
        clock.mark("image");
        failpoint::hit("create.settled").await;
        let (row, mailbox) = self.take_name(name, spec, start != Start::No).await?;
        failpoint::hit("create.named").await;
        let id = row.id.clone();
        if let Err(failure) = self.take_resources(&row, start, client, operation).await {
            return Err(self.undo(&row, mailbox, failure).await);
        }
        if start == Start::No {
            let state = row.state;
            self.adopt_new(row.clone(), mailbox);
            return Ok(view::vm(&self.parts, row, state));
        }
        clock.mark("disk");
        if let Err(failure) =
            self.adopt_and_start(row.clone(), mailbox, clock, Op::Start { wait, overcommit: false }, operation).await
        {
            return Err(self.after_failed_start(&row, failure, operation).await);
        }
        // The VM runs, but the client that would be told so is gone.
        if operation.cancel().is_cancelled() && start != Start::Leased {
            let left = failures::cancelled("the creation");
            return Err(self.after_failed_start(&row, left, operation).await);
        }
        self.show(id.as_str()).await
    }

    /// Resolves every value and pulls what is missing here. Makes nothing of the VM yet.
    async fn resolve(&self, request: CreateVm, operation: &Operation) -> Result<(Option<VmName>, VmSpec), Failure> {
        let parts = &self.parts;
        let shape = shape(&request, &parts.config)?;
        if request.ttl.is_some_and(|ttl| ttl.duration() < MIN_TTL) {
            return Err(Failure::new(Code::Invalid, "a VM lives at least a second")
                .hint("leave --ttl away for a VM that stays until it is deleted"));
        }
        let network = requested_network(&parts.config, &request)?;
        let exec = parts.workspaces.exec_defaults(request.env, request.workdir, request.user)?;
        if let Some(name) = &request.name {
            check_not_an_id(name)?;
            if parts.store.vm_named(name).await?.is_some() {
                return Err(name_taken(name));
            }
        }
        let image = chosen(request.image.as_ref(), &parts.config.default_image);
        let image = parts.images.proper_name(&image).await?;
        if let Some(kernel) = &request.kernel {
            parts.images.ensure_kernel_known(kernel).await?;
        }
        parts.images.ensure_image_known(&image).await?;
        admission::check_total(shape.memory, request.overcommit)?;
        if request.start != Start::No {
            let attempt = admission::Attempt::Sizes;
            admission::admit(parts, shape.memory, ByteSize(0), request.overcommit, attempt).await?;
        }
        // A VM that cannot run here is not worth a pull either, whenever it is to be started.
        if request.start != Start::No || request.vmm.is_some() {
            parts.choose(request.vmm).await?;
        }
        // The image comes first: its name is the most likely one to be misspelt, it may be out of reach, and it
        // recommends a kernel.
        let found = parts.images.image(&image, request.logins, operation).await?;
        crate::images::runs_here(&found)?;
        let recommended = found.manifest.kernel;
        let kernel = request.kernel.or(recommended).unwrap_or_else(|| parts.config.default_kernel.value.clone());
        parts.images.kernel(&kernel, false, operation).await?;
        let image_id = found.manifest.id;
        let spec = VmSpec {
            image,
            image_id,
            kernel,
            vmm: request.vmm,
            vcpu: shape.vcpu,
            memory: shape.memory,
            disk_size: shape.disk_size,
            init: shape.init,
            env: exec.env,
            workdir: exec.workdir,
            user: exec.user,
            overcommit: request.overcommit,
            ttl: request.ttl,
            network,
            sources: shape.sources,
        };
        if request.start != Start::No {
            start::preflight(parts, &spec, admission::Attempt::Sizes, operation).await?;
        }
        still_wanted(operation)?;
        Ok((request.name, spec))
    }

    /// Writes the row. From here on the name belongs to the VM.
    async fn take_name(
        self: &Arc<Self>,
        name: Option<VmName>,
        spec: VmSpec,
        is_to_run: bool,
    ) -> Result<(VmRow, ReservedMailbox), Failure> {
        // Until the row exists nothing else records that the image and the kernel are needed.
        let _held = self.parts.images.hold(&spec.image_id, &spec.kernel).await?;
        for attempt in 0..NAME_TRIES {
            let now = age::Now::read();
            let row = VmRow {
                id: random::vm_id(),
                name: name.clone().unwrap_or_else(|| naming::generate(attempt)),
                machine_id: random::hex(16),
                state: VmState::Created,
                reason: None,
                created_at: now.wall(),
                birth: now.as_birth(),
                spec: spec.clone(),
                run: Run::default(),
                last_used: None,
                workspace: None,
            };
            // The mailbox exists before anybody can know of the VM: early commands wait in it until the VM is made.
            let mailbox = ReservedMailbox::new(self, &row.id, LiveState::of(row.state, is_to_run));
            match (self.parts.store.insert_vm(row.clone()).await, &name) {
                (Ok(()), _) => return Ok((row, mailbox)),
                (Err(StoreError::Taken(_)), Some(name)) => return Err(name_taken(name)),
                (Err(StoreError::Taken(_)), None) => {}
                (Err(error), _) => return Err(error.into()),
            }
        }
        Err(Failure::new(Code::Unavailable, "every generated name is taken").hint("name the VM with --name"))
    }

    /// Takes what the VM holds for its whole life, as long as the client waits for it.
    async fn take_resources(
        &self,
        row: &VmRow,
        start: Start,
        client: Option<ProcessIdentity>,
        operation: &Operation,
    ) -> Result<(), Failure> {
        if let (Start::Leased, Some(holder)) = (start, client) {
            let host_boot_id = host_boot_id()
                .map_err(|error| failures::because(Code::Internal, "cannot tell this boot of the host", &error))?;
            self.parts.store.insert_lease(Lease { vm: row.id.clone(), host_boot_id, holder }).await?;
        }
        failpoint::hit("create.leased").await;
        start::take_durable(&self.parts, row, operation).await?;
        still_wanted(operation)?;
        failpoint::hit("create.furnished").await;
        if start == Start::No {
            // For a VM that starts now, the start does this later: syncing to a disk may take long.
            start::settle(&self.parts, &row.id).await?;
            failpoint::hit("create.synced").await;
            still_wanted(operation)?;
        }
        Ok(())
    }

    async fn undo(self: &Arc<Self>, row: &VmRow, mailbox: ReservedMailbox, failure: Failure) -> Failure {
        // A VM that was never reported is removed even if this daemon dies meanwhile: half of it would look like a
        // whole VM.
        let mut row = row.clone();
        row.run.deleting = true;
        if let Err(error) = self.parts.store.update_vm(&row).await {
            tracing::error!(vm = %row.name, %error, "cannot write that a VM is taken back");
        }
        failpoint::hit("create.undone").await;
        match release(&self.parts, &row.id, Depth::Everything).await {
            Ok(()) => failure,
            Err(also) => {
                // The row stays, so that the VM can be seen; with a task it can be deleted as well.
                self.adopt_new(row, mailbox);
                failure.cause(format!("and what was made cannot be taken away: {also}"))
            }
        }
    }

    async fn after_failed_start(&self, row: &VmRow, failure: Failure, operation: &Operation) -> Failure {
        // If the VM was deleted or stopped meanwhile, that request has decided what becomes of it.
        let Ok(Some(now)) = self.parts.store.vm(&row.id).await else { return failure };
        let client_left = operation.cancel().is_cancelled();
        if client_left || now.state == VmState::Created {
            let gone = self.delete(&row.id, true, &Operation::unwatched()).await;
            return match gone {
                Ok(()) => without_leftover_hints(failure),
                Err(also) => failure.cause(format!("and what was made cannot be taken away: {also}")),
            };
        }
        if let Err(error) = self.parts.store.delete_lease(&row.id).await {
            tracing::error!(vm = %row.name, %error, "cannot end a lease");
        }
        failpoint::hit("create.kept").await;
        failure
    }
}

/// Fails once the client that asked for the VM is gone.
fn still_wanted(operation: &Operation) -> Result<(), Failure> {
    if operation.cancel().is_cancelled() { Err(failures::cancelled("the creation")) } else { Ok(()) }
}

/// Refuses a name that looks like an id. A name is looked up before an id, so it could hide another VM.
fn check_not_an_id(name: &VmName) -> Result<(), Failure> {
    if name.as_str().parse::<VmId>().is_err() {
        return Ok(());
    }
    Err(Failure::new(Code::Invalid, format!("no VM can be called {name}: that is what ids look like"))
        .hint("any name will do that is not 12 of 0-9 and a-f"))
}

/// Returns the network that the VM requests, checked.
fn requested_network(config: &Config, request: &CreateVm) -> Result<NetworkSpec, Failure> {
    let network = NetworkSpec {
        nat: config.nat.clone().overridden_by(request.nat).value,
        allow: request.allow.clone(),
        deny: request.deny.clone(),
        name: request.network.clone(),
        publish: request.publish.clone(),
    };
    network::check(&network, &config.network())?;
    Ok(network)
}

/// Removes hints about a VM that is gone.
fn without_leftover_hints(mut failure: Failure) -> Failure {
    failure.hints.retain(|hint| !hint.contains("banger vm logs") && !hint.contains("banger vm delete "));
    failure
}

fn name_taken(name: &VmName) -> Failure {
    Failure::new(Code::AlreadyExists, format!("there is a VM {name} already"))
        .hint(format!("`banger vm delete {name}` deletes it; --name gives the new one another name"))
}
