//! `banger vm`, one file per verb.

pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod delete;
mod each;
pub(crate) mod exec;
pub(crate) mod health;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod network;
pub(crate) mod ports;
pub(crate) mod prune;
pub(crate) mod restart;
pub(crate) mod run;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod ssh;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod workspace;

use crate::{cli::GROUP_HELP, context::Context, exit::Result};
use clap::{Args, Subcommand};

/// `banger vm …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "\
Most people want:
  banger vm run --rm -- uname -a      run a command in a throw-away VM, get its exit status
  banger vm run --name demo -d        a VM that stays up
  banger vm exec demo -- ps aux       run a command in it
  banger vm rm -f demo                delete it

A VM is named by its name, its id, or the beginning of its id.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct VmGroup {
    #[command(subcommand)]
    pub(crate) command: VmCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Create a VM, start it, and run a command or a shell in it
    Run(run::RunArgs),
    /// Create a VM, and start it unless told otherwise
    Create(create::CreateArgs),
    /// Start VMs
    Start(start::StartArgs),
    /// Stop VMs: sync, power off in order, then kill the VMM
    Stop(stop::StopArgs),
    /// Stop VMs and start them with a fresh kernel
    Restart(restart::RestartArgs),
    /// Send a signal to the VMMs of VMs (KILL: pull the plug)
    Kill(kill::KillArgs),
    /// Change the sizes or the network policy of VMs
    Set(set::SetArgs),
    /// Delete VMs and their disks
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    /// Delete all VMs that are not running
    Prune(prune::PruneArgs),
    /// List VMs
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show everything about a VM
    Show(show::ShowArgs),
    /// Run a command in a VM
    Exec(exec::ExecArgs),
    /// Log in to a VM with the system's ssh
    Ssh(ssh::SshArgs),
    /// Copy files between this host and a VM
    Cp(cp::CpArgs),
    /// Print a VM's serial console
    Logs(logs::LogsArgs),
    /// Show what a VM uses
    Stats(stats::StatsArgs),
    /// List the ports of a VM: who listens in it, and where they are published
    Ports(ports::PortsArgs),
    /// Publish ports of a VM on this host
    Publish(network::PublishArgs),
    /// Unpublish ports of a VM
    Unpublish(network::UnpublishArgs),
    /// Check that a VM's agent answers
    Health(health::HealthArgs),
    /// A git repository in a VM: import it, export what changed
    Workspace(workspace::WorkspaceGroup),
}

pub(crate) async fn dispatch(context: &Context, command: VmCommand) -> Result {
    match command {
        VmCommand::Run(args) => run::run(context, args).await,
        VmCommand::Create(args) => create::run(context, args).await,
        VmCommand::Start(args) => start::run(context, args).await,
        VmCommand::Stop(args) => stop::run(context, args).await,
        VmCommand::Restart(args) => restart::run(context, args).await,
        VmCommand::Kill(args) => kill::run(context, args).await,
        VmCommand::Set(args) => set::run(context, args).await,
        VmCommand::Prune(args) => prune::run(context, &args).await,
        VmCommand::Delete(args) => delete::run(context, args).await,
        VmCommand::List(args) => list::run(context, &args).await,
        VmCommand::Show(args) => show::run(context, &args).await,
        VmCommand::Exec(args) => exec::run(context, args).await,
        VmCommand::Ssh(args) => ssh::run(context, args).await,
        VmCommand::Cp(args) => cp::run(context, args).await,
        VmCommand::Logs(args) => logs::run(context, &args).await,
        VmCommand::Stats(args) => stats::run(context, &args).await,
        VmCommand::Ports(args) => ports::run(context, &args).await,
        VmCommand::Publish(args) => network::publish(context, args).await,
        VmCommand::Unpublish(args) => network::unpublish(context, args).await,
        VmCommand::Health(args) => health::run(context, &args).await,
        VmCommand::Workspace(group) => workspace::dispatch(context, group.command).await,
    }
}
