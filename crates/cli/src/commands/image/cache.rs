//! `banger image cache`: the cache of registry layers.

use crate::{
    cli::GROUP_HELP,
    context::Context,
    exit::{Result, Status},
};
use banger_proto::api::artifact::CachePruned;
use clap::{Args, Subcommand};
use hyper::Method;

/// `banger image cache …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "\
Most people want:
  banger image cache prune               free what pulls left, images stay",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct CacheGroup {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Delete cached layers that no running pull needs
    Prune(PruneArgs),
}

/// `banger image cache prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only show what would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// Prunes the cache, and prints how much was freed.
pub(crate) async fn run(context: &Context, command: CacheCommand) -> Result {
    let CacheCommand::Prune(PruneArgs { dry_run }) = command;
    let path = format!("/v1/images/cache/prune?dry_run={dry_run}");
    let pruned: CachePruned = context.daemon().await?.request(Method::POST, &path).await?;
    context.printer.data(&pruned, |pruned| {
        let done = if dry_run { "would free" } else { "freed" };
        let spared = match pruned.in_use {
            0 => String::new(),
            in_use => format!("; {in_use} in use by a pull"),
        };
        let layers = if pruned.blobs == 1 { "layer" } else { "layers" };
        format!("{done} {} in {} {layers}{spared}", pruned.bytes, pruned.blobs)
    })?;
    Ok(Status::Done)
}
