//! `banger system`.

use crate::{
    cli::GROUP_HELP,
    context::Context,
    exit::{Result, Status},
    output::table::table,
};
use banger_proto::{
    api::host::{DiskUsage, UsageKind},
    size::ByteSize,
};
use clap::{Args, Subcommand};

/// `banger system …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "Most people want:\n  banger system df      what images, kernels, VMs and caches take, and what can be given back",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct SystemGroup {
    #[command(subcommand)]
    pub(crate) command: SystemCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show the disk space that banger uses on this host
    Df,
}

pub(crate) async fn dispatch(context: &Context, command: SystemCommand) -> Result {
    match command {
        SystemCommand::Df => df(context).await,
    }
}

async fn df(context: &Context) -> Result {
    let usage: DiskUsage = context.daemon().await?.get("/v1/system/df").await?;
    context.printer.data(&usage, render)?;
    Ok(Status::Done)
}

fn render(all: &DiskUsage) -> String {
    let nothing = ByteSize(0);
    let rows = all.usage.iter().map(|usage| {
        let reclaim = if usage.reclaimable == nothing { "-".to_owned() } else { usage.reclaim.clone() };
        [
            kind(usage.kind).to_owned(),
            usage.count.to_string(),
            usage.in_use.to_string(),
            usage.size.to_string(),
            usage.reclaimable.to_string(),
            reclaim,
        ]
    });
    let total = [
        "all".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        all.size.to_string(),
        all.reclaimable.to_string(),
        "-".to_owned(),
    ];
    table(&["TYPE", "COUNT", "IN USE", "SIZE", "RECLAIMABLE", "BY"], rows.chain([total]))
}

fn kind(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::Images => "images",
        UsageKind::Kernels => "kernels",
        UsageKind::Vms => "vms",
        UsageKind::Cache => "cache files",
    }
}
