//! `banger vm show`.

use super::list::vmm;
use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::{
        age::age,
        table::{facts, table},
    },
    workspace::stale::short,
};
use banger_proto::{
    api::{
        vm::{Egress, Phase, Vm},
        workspace::Workspace,
    },
    name::VmName,
};
use clap::Args;

/// `banger vm show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
    /// Show what it may reach, and the packets denied lately
    #[arg(long)]
    egress: bool,
}

/// Shows everything about a VM.
pub(crate) async fn run(context: &Context, args: &ShowArgs) -> Result {
    let path = format!("/v1/vms/{}", segment(args.vm.as_str()));
    if args.egress {
        let egress: Egress = context.daemon().await?.get(&format!("{path}/egress")).await?;
        context.printer.data(&egress, render_egress)?;
        return Ok(Status::Done);
    }
    let vm: Vm = context.daemon().await?.get(&path).await?;
    context.printer.data(&vm, render)?;
    Ok(Status::Done)
}

fn render(vm: &Vm) -> String {
    let from = |what: &str| vm.sources.get(what).map(|source| format!(" (from {source})")).unwrap_or_default();
    let disk_used = vm.disk_used.map(|used| format!(", {used} used")).unwrap_or_default();
    let mut text = facts(&[
        ("name", Some(vm.name.to_string())),
        ("id", Some(vm.id.to_string())),
        ("state", Some(vm.state.to_string())),
        ("reason", vm.reason.clone()),
        ("ip", vm.ip.map(|ip| ip.to_string())),
        ("network", vm.network.as_ref().map(ToString::to_string)),
        ("internet", Some(if vm.nat { "open" } else { "closed" }.to_owned())),
        ("allowed", listed(&vm.allow)),
        ("denied", listed(&vm.deny)),
        ("published", listed(&vm.published)),
        ("vmm", vmm(vm)),
        ("chosen because", vm.vmm_reason.clone()),
        ("confinement", vm.unconfined.as_ref().map(|lack| format!("incomplete: {lack}"))),
        ("vmm pid", vm.vmm_pid.map(|pid| pid.to_string())),
        ("shim pid", vm.shim_pid.map(|pid| pid.to_string())),
        ("image", Some(format!("{} ({})", vm.image, vm.image_id))),
        ("kernel", Some(vm.kernel.to_string())),
        ("init", Some(vm.init.to_string())),
        ("vcpu", Some(format!("{}{}", vm.vcpu, from("vcpu")))),
        ("memory", Some(format!("{}{}", vm.memory, from("memory")))),
        ("disk", Some(format!("{}{disk_used}{}", vm.disk_size, from("disk_size")))),
        ("environment", (!vm.env.is_empty()).then(|| format!("{} (values not shown)", vm.env.join(" ")))),
        ("workdir", vm.workdir.clone()),
        ("user", vm.user.clone()),
        ("workspace", vm.workspace.as_ref().map(workspace)),
        ("created", Some(since(&vm.created_at))),
        ("started", vm.started_at.as_deref().map(since)),
        ("last used", vm.last_used_at.as_deref().map(since)),
        ("will be deleted", vm.expires_at.clone()),
        ("at next start", listed(&vm.pending).map(|sizes| format!("{sizes} as set"))),
        ("boot id", vm.boot_id.clone()),
        ("boot state", vm.boot_state.clone()),
    ]);
    if !vm.phases.is_empty() {
        text.push_str("\n\nWhere the last start's time went:\n");
        text.push_str(&phases(&vm.phases));
    }
    text
}

fn listed(items: &[impl ToString]) -> Option<String> {
    (!items.is_empty()).then(|| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

fn render_egress(egress: &Egress) -> String {
    let mut text = facts(&[
        ("internet", Some(if egress.nat { "open" } else { "closed" }.to_owned())),
        ("allowed", listed(&egress.allow)),
        ("denied", listed(&egress.deny)),
        ("packets denied", Some(egress.denied_packets.to_string())),
    ]);
    if !egress.denials.is_empty() {
        text.push_str("\n\nLast denials:\n");
        text.push_str(&table(
            &["TO", "NAME", "PROTOCOL", "PORT", "PACKETS", "AGO"],
            egress.denials.iter().map(|denied| {
                [
                    denied.to.clone(),
                    denied.name.clone().unwrap_or_else(|| "-".into()),
                    denied.protocol.clone(),
                    denied.port.map_or_else(|| "-".into(), |port| port.to_string()),
                    denied.packets.to_string(),
                    format!("{} s", denied.seconds_ago),
                ]
            }),
        ));
    }
    text
}

fn workspace(workspace: &Workspace) -> String {
    let head = short(workspace.head_commit.as_deref());
    let Workspace { guest_path, source_path, mode, prepared_at, .. } = workspace;
    format!("{guest_path} from {source_path} at {head}, {mode}, {} ago", age(prepared_at))
}

fn since(time: &str) -> String {
    format!("{time} ({} ago)", age(time))
}

fn phases(phases: &[Phase]) -> String {
    table(
        &["PHASE", "AT", "TOOK"],
        phases
            .iter()
            .map(|phase| [phase.name.clone(), format!("{} ms", phase.started_ms), format!("{} ms", phase.duration_ms)]),
    )
}
