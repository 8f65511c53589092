//! Other sizes for a VM that exists: checked at once, given at its next start.

use super::{admission, owner::Owner, set_network, spec, view};
use crate::{config::Source, failpoint, operation::Operation};
use banger_proto::{
    api::vm::SetVm,
    failure::{Code, Failure},
};

/// Writes down what the VM is to be. Of a request that is refused nothing is kept.
pub(super) async fn set(owner: &mut Owner, operation: &Operation, wanted: SetVm) -> Result<(), Failure> {
    if wanted == SetVm::default() {
        return Err(Failure::new(Code::Invalid, "nothing was said to be set"));
    }
    if set_network::is_meant(&wanted) {
        set_network::set(owner, &wanted).await?;
    }
    let before = owner.row.spec.clone();
    let spec = &mut owner.row.spec;
    spec.vcpu = wanted.vcpu.unwrap_or(spec.vcpu);
    spec.memory = wanted.memory.unwrap_or(spec.memory);
    spec.disk_size = wanted.disk_size.unwrap_or(spec.disk_size);
    let said = [
        ("vcpu", wanted.vcpu.is_some()),
        ("memory", wanted.memory.is_some()),
        ("disk_size", wanted.disk_size.is_some()),
    ];
    for (name, _) in said.into_iter().filter(|(_, said)| *said) {
        spec.sources.insert(name.to_owned(), Source::Flag.to_string());
    }
    let checked = spec::check(spec.sizes()).and_then(|()| {
        if spec.disk_size < before.disk_size {
            let now = before.disk_size;
            return Err(Failure::new(Code::Invalid, format!("a work disk only grows: this one has {now}"))
                .hint("a new VM can have a smaller one: `banger vm create --disk-size`"));
        }
        admission::fits_at_all(spec.memory, spec.overcommit)
    });
    let saved = match checked {
        Ok(()) => owner.save().await,
        refused => refused,
    };
    failpoint::hit("set.saved").await;
    if saved.is_err() {
        owner.row.spec = before;
        return saved;
    }
    let pending = view::pending(owner.row.run.sizes.filter(|_| owner.row.state.is_live()), owner.row.spec.sizes());
    if !pending.is_empty() {
        let name = &owner.row.name;
        operation.notice(format!(
            "VM {name} runs: {} changes when it starts again (banger vm restart {name})",
            pending.join(", ")
        ));
    }
    Ok(())
}
