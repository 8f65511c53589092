//! `banger kernel`.

mod import;
mod list;
mod pull;
mod rm;
mod show;

use crate::{cli::GROUP_HELP, context::Context, exit::Result};
use banger_proto::api::artifact::Kernel;
use clap::{Args, Subcommand};

/// `banger kernel …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "\
Most people want:
  banger kernel list --available                     kernels on this host and in the catalogs
  banger kernel pull debian-6.1                      get one before it is needed (vm run does it by itself)
  banger kernel import mine-6.12 --from ./bzImage    use one of your own",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct KernelGroup {
    #[command(subcommand)]
    pub(crate) command: KernelCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// List kernels on this host
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Get a kernel by its catalog name
    Pull(pull::PullArgs),
    /// Make a kernel from a directory, a Debian package or a kernel file
    Import(import::ImportArgs),
    /// Show everything about a kernel
    Show(show::ShowArgs),
    /// Delete kernels
    #[command(visible_alias = "delete")]
    Rm(rm::RmArgs),
}

pub(crate) async fn dispatch(context: &Context, command: KernelCommand) -> Result {
    match command {
        KernelCommand::List(args) => list::run(context, &args).await,
        KernelCommand::Pull(args) => pull::run(context, args).await,
        KernelCommand::Import(args) => import::run(context, args).await,
        KernelCommand::Show(args) => show::run(context, &args).await,
        KernelCommand::Rm(args) => rm::run(context, &args).await,
    }
}

/// Returns the state of a kernel in one word.
fn state(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel { pulled: false, .. } => "available",
        Kernel { modified: Some(true), .. } => "modified",
        Kernel { problem: Some(_), .. } => "damaged",
        Kernel { outdated: true, .. } => "outdated",
        _ => "pulled",
    }
}
