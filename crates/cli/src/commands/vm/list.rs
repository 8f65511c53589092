//! `banger vm list` and `banger ps`.

use crate::{
    context::Context,
    exit::{Result, Status},
    output::{age::age, table::table},
};
use banger_proto::api::vm::Vm;
use clap::Args;

/// `banger vm list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print ids only
    #[arg(short = 'q', long)]
    ids: bool,
    // `vm list` shows all VMs; `-a` is accepted for those who are used to it.
    #[arg(short, long, hide = true)]
    all: bool,
}

/// `banger ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Print ids only
    #[arg(short = 'q', long)]
    ids: bool,
    /// Include VMs that are not running
    #[arg(short, long)]
    all: bool,
}

/// Lists all VMs.
pub(crate) async fn run(context: &Context, args: &ListArgs) -> Result {
    list(context, true, args.ids).await
}

/// Lists running VMs.
pub(crate) async fn ps(context: &Context, args: &PsArgs) -> Result {
    list(context, args.all, args.ids).await
}

async fn list(context: &Context, all: bool, ids: bool) -> Result {
    let path = if all { "/v1/vms" } else { "/v1/vms?running=true" };
    let vms: Vec<Vm> = context.daemon().await?.get(path).await?;
    // As in Docker, --quiet prints only ids.
    if !context.printer.json() && (ids || context.printer.quiet()) {
        let ids: Vec<&str> = vms.iter().map(|vm| vm.id.as_str()).collect();
        context.printer.text(&ids.join("\n"))?;
    } else {
        context.printer.data(&vms, |vms| render(vms))?;
    }
    Ok(Status::Done)
}

/// Formats the table of VMs.
pub(super) fn render(vms: &[Vm]) -> String {
    let header = ["ID", "NAME", "STATE", "IMAGE", "VMM", "IP", "VCPU", "MEM", "DISK", "WORKSPACE", "AGE"];
    table(
        &header,
        vms.iter().map(|vm| {
            [
                vm.id.to_string(),
                vm.name.to_string(),
                vm.state.to_string(),
                vm.image.to_string(),
                vmm(vm).unwrap_or_else(|| "-".into()),
                vm.ip.map_or_else(|| "-".into(), |ip| ip.to_string()),
                vm.vcpu.to_string(),
                vm.memory.to_string(),
                vm.disk_size.to_string(),
                vm.workspace.as_ref().map_or("-", |workspace| base_name(&workspace.source_path)).to_owned(),
                age(&vm.created_at),
            ]
        }),
    )
}

/// Returns the last component of the path of a repository.
fn base_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// Returns the VMM and its accelerator, as far as they are known: `qemu/tcg`.
pub(super) fn vmm(vm: &Vm) -> Option<String> {
    let vmm = vm.vmm?;
    Some(vm.accelerator.map_or_else(|| vmm.to_string(), |accelerator| format!("{vmm}/{accelerator}")))
}
