//! `banger vm stats`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::table::facts,
};
use banger_proto::{api::vm::VmStats, name::VmName, size::ByteSize};
use clap::Args;

/// `banger vm stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
}

/// Shows what a VM uses on the host, and what its agent reports.
pub(crate) async fn run(context: &Context, args: &StatsArgs) -> Result {
    let stats: VmStats = context.daemon().await?.get(&format!("/v1/vms/{}/stats", segment(args.vm.as_str()))).await?;
    context.printer.data(&stats, render)?;
    Ok(Status::Done)
}

fn render(stats: &VmStats) -> String {
    let guest = stats.guest.as_ref();
    facts(&[
        ("host CPU time", Some(seconds(stats.vmm_cpu_ms))),
        ("host memory", Some(ByteSize(stats.vmm_rss).to_string())),
        ("host disk", Some(ByteSize(stats.disk_used).to_string())),
        ("guest CPU time", guest.map(|guest| seconds(guest.cpu_ms))),
        ("guest memory", guest.map(|guest| used(guest.memory_total, guest.memory_available))),
        ("guest disk", guest.map(|guest| used(guest.disk_total, guest.disk_free))),
        ("guest processes", guest.map(|guest| guest.processes.to_string())),
        ("guest", stats.guest_failure.as_ref().map(|failure| format!("does not answer: {failure}"))),
    ])
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// Formats used memory. The guest's numbers are untrusted: free may be more than total.
fn used(total: u64, free: u64) -> String {
    format!("{} of {}", ByteSize(total.saturating_sub(free)), ByteSize(total))
}
