//! `banger vm workspace`: one file for each verb.

pub(crate) mod export;
pub(crate) mod prepare;

use crate::{cli::GROUP_HELP, context::Context, exit::Result};
use clap::{Args, Subcommand};

/// `banger vm workspace …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "\
Most people want:
  banger vm run . --name fix                    a VM with this repository in it
  banger vm workspace export fix -o fix.patch   what changed there, as a patch
  banger vm workspace export fix --apply        and applied here",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct WorkspaceGroup {
    #[command(subcommand)]
    pub(crate) command: WorkspaceCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Import a repository into a running VM, or update it there
    Prepare(prepare::PrepareArgs),
    /// Export what changed in a VM's workspace as one patch
    Export(export::ExportArgs),
}

pub(crate) async fn dispatch(context: &Context, command: WorkspaceCommand) -> Result {
    match command {
        WorkspaceCommand::Prepare(args) => prepare::run(context, args).await,
        WorkspaceCommand::Export(args) => export::run(context, args).await,
    }
}
