//! Changing a VM: its sizes, which apply at its next start, and its network, which changes at once.
//!
//! A request takes effect as a whole or not at all: everything is checked before anything is written, and a part that
//! fails is undone with the rest. If undoing a policy fails too, the new policy stays, and the client is told.

pub(super) mod network;

use super::{admission, owner::Owner, spec, view};
use crate::{capability::VmFiles, operation::Operation, store::VmSpec};
use banger_machine::failpoint;
use banger_proto::{
    api::{host::SettingSource, vm::SetVm},
    failure::{Code, Failure},
    size::ByteSize,
};
use std::fs;

/// Records the change and applies it to a running machine.
pub(super) async fn set(owner: &mut Owner, operation: &Operation, wanted: SetVm) -> Result<(), Failure> {
    if wanted == SetVm::default() {
        return Err(Failure::new(Code::Invalid, "nothing was said to be set"));
    }
    let before = owner.row.spec.clone();
    let disk = fs::metadata(VmFiles::work_disk(&owner.parts.layout, &owner.row.id)).ok();
    let mut after = resized(&before, &wanted, disk.map(|disk| ByteSize(disk.len())))?;
    let change = network::Change::of(owner, &wanted)?;
    after.network = change.after.clone();
    owner.row.spec = after;
    let done = match owner.save().await {
        // The row is written before the machine is changed.
        Ok(()) => change.take_effect(owner).await,
        unwritten => unwritten,
    };
    failpoint::hit("set.saved").await;
    if done.is_err() {
        owner.row.spec = before;
        owner.save_or_log().await;
        let told = |failure: Failure| failure.cause("the policy could not be taken back: the new one is in force");
        return if change.undo(owner).await { done } else { done.map_err(told) };
    }
    let pending = view::pending(owner.row.run.sizes.filter(|_| owner.row.state.is_live()), owner.row.spec.sizes());
    if !pending.is_empty() {
        let name = &owner.row.name;
        operation.notice(format!(
            "VM {name} runs: {} changes when it starts again (banger vm restart {name})",
            pending.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

/// Returns the spec with the requested sizes, if a VM with the spec `before` and a work disk of the given size may have
/// them.
fn resized(before: &VmSpec, wanted: &SetVm, disk: Option<ByteSize>) -> Result<VmSpec, Failure> {
    let mut after = before.clone();
    after.vcpu = wanted.vcpu.unwrap_or(after.vcpu);
    after.memory = wanted.memory.unwrap_or(after.memory);
    after.disk_size = wanted.disk_size.unwrap_or(after.disk_size);
    after.overcommit = wanted.overcommit.unwrap_or(after.overcommit);
    let said = [
        ("vcpu", wanted.vcpu.is_some()),
        ("memory", wanted.memory.is_some()),
        ("disk_size", wanted.disk_size.is_some()),
    ];
    for (name, _) in said.into_iter().filter(|(_, said)| *said) {
        after.sources.insert(name.to_owned(), SettingSource::Flag.to_string());
    }
    spec::check(after.sizes())?;
    // A requested growth that no start has carried out yet can be taken back.
    let now = disk.map_or(before.disk_size, |disk| disk.min(before.disk_size));
    if after.disk_size < now {
        return Err(Failure::new(Code::Invalid, format!("a work disk only grows: this one has {now}"))
            .hint("a new VM can have a smaller one: `banger vm create --disk-size`"));
    }
    if wanted.memory.is_some() {
        admission::check_total(after.memory, after.overcommit)?;
    }
    Ok(after)
}
