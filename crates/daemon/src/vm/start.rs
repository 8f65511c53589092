//! Starting a VM: first everything that it needs, then the machine, then its agent.
//!
//! Until a shim is launched, a failure leaves the VM in its earlier state. Afterwards there is a console to read, so a
//! VM that did not become ready is `failed` and says why.

use super::{
    VmService,
    admission::{self, Attempt},
    guest_text::sanitized,
    owner::Owner,
    phases::PhaseClock,
    release::{HELD_HINT, holds_machine, release},
    service::Parts,
    set::network,
    stop, wait,
};
use crate::{
    capability::{Depth, Launch},
    failures::{self, Explain},
    operation::Operation,
    store::{ResourceKind, Run, VmRow, VmSpec},
};
use banger_machine::{
    clock, failpoint,
    vmm::{
        driver,
        plan::{Console, LaunchPlan},
        select::Choice,
    },
};
use banger_proto::{
    agent::event::Ready,
    api::vm::{Accelerator, VmState},
    failure::{Code, Failure},
    name::VmId,
    size::ByteSize,
};
use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path, sync::atomic::Ordering};

/// The parts of a VM's row as they were before its start.
struct Previous {
    state: VmState,
    reason: Option<String>,
    run: Run,
    overcommit: bool,
}

impl Previous {
    fn of(row: &VmRow) -> Self {
        Self { state: row.state, reason: row.reason.clone(), run: row.run.clone(), overcommit: row.spec.overcommit }
    }
}

/// Checks whether a VM could start now, before anything of it is touched. Pulls what is missing.
pub(super) async fn preflight(
    parts: &Parts,
    spec: &VmSpec,
    attempt: Attempt<'_>,
    operation: &Operation,
) -> Result<(), Failure> {
    preflight_with(parts, spec, ByteSize(0), attempt, operation).await
}

/// Does the same for a running VM that is to be restarted, before it is taken down. Not everything shows from there:
/// whether the kernel suits the VMM is checked when the plan is complete.
pub(super) async fn preflight_again(owner: &Owner, operation: &Operation, overcommit: bool) -> Result<(), Failure> {
    let (parts, row) = (&owner.parts, &owner.row);
    // A start would refuse rules that have become too many because the configuration has new ones.
    network::check(&row.spec.network, &parts.config.network())?;
    parts.choose(row.spec.vmm).await?;
    let mut spec = overcommitted(&row.spec, overcommit);
    // The ports that the VM itself publishes will be free.
    spec.network.publish.retain(|publish| !row.run.published.iter().any(|own| own.host == publish.host));
    let back = ByteSize(VmService::resident(row).unwrap_or(0));
    let attempt = Attempt::Restart(&row.name);
    preflight_with(parts, &spec, back, attempt, operation)
        .await
        .map_err(|failure| operation.explain_cancellation(failure))
}

async fn preflight_with(
    parts: &Parts,
    spec: &VmSpec,
    back: ByteSize,
    attempt: Attempt<'_>,
    operation: &Operation,
) -> Result<(), Failure> {
    admission::admit(parts, spec.memory, back, spec.overcommit, attempt).await?;
    for capability in parts.capabilities.iter() {
        capability.preflight(spec, operation).await?;
    }
    Ok(())
}

/// Returns the spec of a VM for a start with this option.
fn overcommitted(spec: &VmSpec, overcommit: bool) -> VmSpec {
    VmSpec { overcommit: spec.overcommit || overcommit, ..spec.clone() }
}

/// Starts the VM and waits until it is ready.
pub(super) async fn start(owner: &mut Owner, operation: &Operation, overcommit: bool) -> Result<(), Failure> {
    end_predecessor(owner).await.map_err(|failure| operation.explain_cancellation(failure))?;
    // A phase clock means that the VM is being created; a new VM that cannot start is not kept.
    let (made, row) = (owner.clock.take(), &owner.row);
    let attempt = if made.is_some() { Attempt::Sizes } else { Attempt::Start(&row.name) };
    let mut clock = made.unwrap_or_else(PhaseClock::start);
    let (choice, tsc_khz) = owner.parts.choose(row.spec.vmm).await?;
    let spec = overcommitted(&row.spec, overcommit);
    preflight(&owner.parts, &spec, attempt, operation)
        .await
        .map_err(|failure| operation.explain_cancellation(failure))?;
    announce_start(owner, &choice, operation);

    let before = Previous::of(&owner.row);
    owner.row.spec = spec;
    owner.row.state = VmState::Starting;
    owner.row.reason = None;
    owner.row.run = Run {
        started_at: Some(clock::now()),
        sizes: Some(owner.row.spec.sizes()),
        vmm: Some(choice.vmm),
        accelerator: Some(choice.accelerator),
        vmm_reason: Some(choice.reason.clone()),
        ..Run::default()
    };
    let plan = match prepare(owner, &choice, tsc_khz, operation, &mut clock).await {
        Ok(plan) => plan,
        Err(failure) => {
            restore_and_down(owner, before).await;
            return Err(operation.explain_cancellation(failure));
        }
    };
    failpoint::hit("start.planned").await;
    operation.begin(format!("starting {}", plan.vmm));
    let launched = tokio::select! {
        // Dropping the launch ends what was started.
        launched = owner.parts.shims.launch(&plan) => launched.map_err(Explain::explain),
        () = operation.cancel().cancelled() => Err(operation.explain_cancellation(failures::cancelled("the start"))),
    };
    match launched {
        Ok(shim) => {
            failpoint::hit("start.launched").await;
            owner.follow(shim);
        }
        Err(failure) => return Err(give_up(owner, Some(before), operation, with_hints(owner, failure)).await),
    }
    clock.mark("shim");
    finish(owner, Some(before), operation, clock).await
}

/// Ends what is left of an earlier machine. It may still use the VM's disk, so nothing is started beside it.
async fn end_predecessor(owner: &Owner) -> Result<(), Failure> {
    let (parts, VmRow { id, name, .. }) = (&owner.parts, &owner.row);
    if !holds_machine(parts, id).await {
        return Ok(());
    }
    let released = release(parts, id, Depth::Machine).await;
    if !holds_machine(parts, id).await {
        return Ok(());
    }
    let refused = Failure::new(Code::Conflict, format!("VM {name} cannot start: what ran of it does not end"));
    Err(match released {
        Err(failure) => refused.cause(failure.to_string()),
        Ok(()) => refused,
    }
    .hint(HELD_HINT))
}

/// Resumes a start that an earlier daemon began, or whose client left after the agent had answered.
pub(super) async fn resume(owner: &mut Owner, operation: &Operation) -> Result<(), Failure> {
    owner.resubscribe();
    finish(owner, None, operation, PhaseClock::start()).await
}

async fn finish(
    owner: &mut Owner,
    before: Option<Previous>,
    operation: &Operation,
    mut clock: PhaseClock,
) -> Result<(), Failure> {
    let ready = match wait::agent::wait_ready(owner, operation).await {
        Ok(ready) => ready,
        Err(failure) => return Err(give_up(owner, before, operation, failure).await),
    };
    failpoint::hit("start.ready").await;
    clock.guest(&ready);
    owner.record_phases(clock.phases());
    let followed = tokio::select! {
        followed = after_start(owner, &ready) => followed,
        // The machine stays as it is, with an agent that answers: so a stop that follows is an orderly one, and a kill
        // need not wait for a silent guest. If no other step follows, the start goes on.
        () = operation.cancel().cancelled() => {
            let what = format!("the start of VM {} was cut short; its agent answers already", owner.row.name);
            return Err(operation.cut_short(&what));
        }
    };
    if let Err(failure) = followed {
        // A guest that does not accept what it gets is asked to power off, because its services may have begun to
        // write.
        tokio::select! {
            _ = stop::power_off(owner, operation, None) => {}
            // The step that was requested instead decides, as above. A client that leaves does not cut this short.
            () = operation.preempted() => return Err(failure),
        }
        return Err(fail(owner, failure).await);
    }
    owner.row.state = VmState::Running;
    owner.save().await?;
    announce_ports(owner, operation);
    failpoint::hit("start.saved").await;
    Ok(())
}

/// Completes a start once the agent answers: what the guest gets then.
async fn after_start(owner: &Owner, ready: &Ready) -> Result<(), Failure> {
    settle(&owner.parts, &owner.row.id).await?;
    failpoint::hit("start.settled").await;
    for capability in owner.parts.capabilities.iter() {
        capability.after_start(&owner.row, ready).await?;
        failpoint::hit(&format!("start.followed.{}", capability.name())).await;
    }
    Ok(())
}

/// Waits for what [`take_durable`] left running.
pub(super) async fn settle(parts: &Parts, vm: &VmId) -> Result<(), Failure> {
    for capability in parts.capabilities.iter() {
        capability.settle(vm).await?;
    }
    Ok(())
}

/// Takes down what was started. If the client left, the VM is again as it was before; if another step was requested
/// instead, it is stopped; otherwise it is failed.
async fn give_up(owner: &mut Owner, before: Option<Previous>, operation: &Operation, failure: Failure) -> Failure {
    if !operation.cancel().is_cancelled() {
        return fail(owner, failure).await;
    }
    owner.end_machine().await;
    failpoint::hit("start.ended").await;
    match before.filter(|_| !operation.is_preempted()) {
        Some(before) => restore_and_down(owner, before).await,
        None => drop(owner.down(VmState::Stopped, None).await),
    }
    failure
}

/// Gives back what a start took, and records the VM as it was before.
async fn restore_and_down(owner: &mut Owner, Previous { state, reason, run, overcommit }: Previous) {
    owner.row.run = run;
    owner.row.spec.overcommit = overcommit;
    let _ = owner.down(state, reason).await;
}

/// Takes down a machine that did not become ready, and records the VM as failed.
async fn fail(owner: &mut Owner, failure: Failure) -> Failure {
    let first = sanitized(failure.causes.first().unwrap_or(&failure.message));
    let reason = match owner.end_and_wait().await {
        Err(words) => format!("{first}; {words}"),
        Ok(_) => first,
    };
    failpoint::hit("start.ended").await;
    let _ = owner.down(VmState::Failed, Some(reason)).await;
    failure
}

/// Takes what a machine needs, in the order of the capabilities, and builds the launch plan.
async fn prepare(
    owner: &mut Owner,
    choice: &Choice,
    tsc_khz: Option<u32>,
    operation: &Operation,
    clock: &mut PhaseClock,
) -> Result<LaunchPlan, Failure> {
    owner.save().await?;
    failpoint::hit("start.recorded").await;
    let parts = owner.parts.clone();
    let vm = &owner.row;
    for kind in [ResourceKind::StateDirectory, ResourceKind::RunDirectory, ResourceKind::Shim] {
        parts.store.claim(&vm.id, kind, vm.id.as_str()).await?;
        failpoint::hit(&format!("start.claimed.{}", kind.as_str())).await;
    }
    let (state_dir, run_dir) = (parts.layout.vm(&vm.id), parts.layout.vm_run(&vm.id));
    make_directory(&state_dir)?;
    failpoint::hit("start.directory").await;
    make_directory(&run_dir)?;
    failpoint::hit("start.directories").await;
    let mut launch = Launch::default();
    for capability in parts.capabilities.iter() {
        if operation.cancel().is_cancelled() {
            return Err(failures::cancelled("the start"));
        }
        capability.contribute(vm, &mut launch, operation).await?;
        failpoint::hit(&format!("start.contributed.{}", capability.name())).await;
        clock.mark(capability.phase());
    }
    let incomplete = || Failure::new(Code::Internal, "no capability contributed a kernel and an initramfs");
    let plan = LaunchPlan {
        id: vm.id.clone(),
        name: vm.name.clone(),
        vmm: choice.vmm,
        accelerator: choice.accelerator,
        program: choice.program.clone(),
        vcpu: vm.spec.vcpu,
        memory: vm.spec.memory,
        kernel: launch.kernel.ok_or_else(incomplete)?,
        initramfs: launch.initramfs.ok_or_else(incomplete)?,
        kernel_args: launch.kernel_args,
        tsc_khz,
        disks: launch.disks,
        console: Console { path: state_dir.join(super::console::FILE), cap: parts.config.console_cap.value },
        state_dir,
        run_dir,
        network: launch.nic.map(|nic| nic.host),
        ports: launch.ports,
    };
    driver(plan.vmm).check(&plan).map_err(|refusal| {
        let what = format!("{} cannot run VM {} with kernel {}", plan.vmm, vm.name, vm.spec.kernel);
        failures::because(Code::Unsupported, what, &refusal)
            .hint("make the VM with another --kernel or --vmm; `banger kernel show` says what a kernel has")
    })?;
    Ok(plan)
}

/// Makes one of the VM's directories (mode 0700) if it is missing.
pub(super) fn make_directory(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failures::io("create", path, &error))
}

/// Reports sizes and VMM, as every start does, and once per daemon why guests are slow here.
fn announce_start(owner: &Owner, choice: &Choice, operation: &Operation) {
    let spec = &owner.row.spec;
    operation.notice(format!(
        "{} vcpu · {} MiB · {} disk · {}/{}",
        spec.vcpu,
        spec.memory.as_mib(),
        spec.disk_size,
        choice.vmm,
        choice.accelerator
    ));
    if choice.accelerator == Accelerator::Tcg && !owner.parts.reported_software.swap(true, Ordering::Relaxed) {
        operation.notice(format!("guests run in software emulation here: {}", choice.reason));
    }
}

/// Reports the host's ports that were chosen for requests of any free port.
fn announce_ports(owner: &Owner, operation: &Operation) {
    let opened = owner.shim.as_ref().map(|shim| shim.status().published).unwrap_or_default();
    for open in opened.iter().filter(|open| open.asked.host.port() == 0) {
        let (name, guest, host) = (&owner.row.name, open.at.guest, open.at.host);
        operation.notice(format!("port {guest} of VM {name} is published at {host}"));
    }
}

fn with_hints(owner: &Owner, failure: Failure) -> Failure {
    let name = &owner.row.name;
    failure
        .hint(format!("`banger vm logs {name}` shows its console"))
        .hint(format!("`banger vm delete {name}` deletes it"))
}

/// Takes what a VM holds for its whole life. Used by `create` as well.
pub(super) async fn take_durable(parts: &Parts, vm: &VmRow, operation: &Operation) -> Result<(), Failure> {
    parts.store.claim(&vm.id, ResourceKind::StateDirectory, vm.id.as_str()).await?;
    failpoint::hit("create.claimed").await;
    make_directory(&parts.layout.vm(&vm.id))?;
    failpoint::hit("create.directory").await;
    for capability in parts.capabilities.iter() {
        capability.prepare(vm, operation).await?;
        failpoint::hit(&format!("create.prepared.{}", capability.name())).await;
    }
    Ok(())
}
