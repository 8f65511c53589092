//! A VM's row as the API shows it.

use super::{age, service::Parts};
use crate::{
    capability::VmFiles,
    store::{Sizes, VmRow},
};
use banger_proto::{
    api::vm::{PendingSize, Vm, VmState},
    size::ByteSize,
    time::rfc3339,
};
use std::os::unix::fs::MetadataExt;

/// Builds the API's VM. `shown` is the state to show, which is ahead of the row while the VM is being started.
pub(super) fn vm(parts: &Parts, row: VmRow, shown: VmState) -> Vm {
    // The clock may have been set since the last check for expiry.
    let created_at = age::corrected(&row, &age::Now::read()).unwrap_or(row.created_at);
    let VmRow { id, name, machine_id: _, state, reason, created_at: _, birth: _, spec, run, last_used, workspace } =
        row;
    let pending = pending(run.sizes.filter(|_| state.is_live()), spec.sizes());
    let disk_used = disk_used(parts, &id).map(ByteSize);
    // A VM that runs without a NIC has an address at which nobody answers.
    let stands = !state.is_live() || parts.network.is_attached(&id);
    let ip = parts.network.address(&id).filter(|_| stands);
    Vm {
        id,
        name,
        // The reason for an earlier end does not matter while the VM comes up again.
        reason: reason.filter(|_| shown == state),
        state: shown,
        ip,
        nat: spec.network.nat,
        allow: spec.network.allow,
        deny: spec.network.deny,
        network: spec.network.name,
        published: if state.is_live() { run.published } else { spec.network.publish },
        vmm: run.vmm.or_else(|| parts.wanted(spec.vmm).named()),
        accelerator: run.accelerator,
        vmm_reason: run.vmm_reason,
        unconfined: run.unconfined,
        vmm_pid: run.vmm_process.map(|process| process.pid),
        shim_pid: run.shim.map(|process| process.pid),
        image: spec.image,
        image_id: spec.image_id,
        kernel: spec.kernel,
        vcpu: spec.vcpu,
        memory: spec.memory,
        disk_size: spec.disk_size,
        disk_used,
        sources: spec.sources,
        init: run.init.unwrap_or(spec.init),
        // Values may be secrets: they are given to the guest and to nobody else.
        env: spec.env.into_keys().collect(),
        workdir: spec.workdir,
        user: spec.user,
        created_at: rfc3339(created_at),
        started_at: run.started_at.map(rfc3339),
        boot_id: run.boot_id,
        boot_state: run.boot_state,
        last_used_at: last_used.map(rfc3339),
        expires_at: spec.ttl.map(|ttl| rfc3339(created_at.saturating_add(ttl.duration().as_secs()))),
        pending,
        phases: run.phases,
        workspace,
    }
}

/// Returns the names of the sizes that the running machine (`now`) does not have yet.
pub(super) fn pending(now: Option<Sizes>, wanted: Sizes) -> Vec<PendingSize> {
    let Some(now) = now else { return Vec::new() };
    let differs = [
        (PendingSize::Vcpu, now.vcpu != wanted.vcpu),
        (PendingSize::Memory, now.memory != wanted.memory),
        (PendingSize::DiskSize, now.disk_size != wanted.disk_size),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(size, _)| size).collect()
}

/// Returns the bytes that the work disk takes on the host.
pub(super) fn disk_used(parts: &Parts, id: &banger_proto::name::VmId) -> Option<u64> {
    let path = VmFiles::work_disk(&parts.layout, id);
    std::fs::metadata(path).ok().map(|metadata| metadata.blocks() * 512)
}
