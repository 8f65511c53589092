//! One module per command: its arguments ([`clap::Args`]) and one function that runs it.

pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod daemon;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod kernel;
mod outcome;
mod removal;
pub(crate) mod ssh_config;
pub(crate) mod ssh_proxy;
pub(crate) mod system;
pub(crate) mod version;
pub(crate) mod vm;

use crate::{cli::Command, context::Context, exit::Result};

/// Runs the command.
pub(crate) async fn dispatch(context: &Context, command: Command) -> Result {
    match command {
        Command::Run(args) => vm::run::run(context, args).await,
        Command::Exec(args) => vm::exec::run(context, args).await,
        Command::Ps(args) => vm::list::ps(context, &args).await,
        Command::Ssh(args) => vm::ssh::run(context, args).await,
        Command::Cp(args) => vm::cp::run(context, args).await,
        Command::Logs(args) => vm::logs::run(context, &args).await,
        Command::Stop(args) => vm::stop::run(context, args).await,
        Command::Rm(args) => vm::delete::run(context, args).await,
        Command::Vm(group) => vm::dispatch(context, group.command).await,
        Command::Image(group) => image::dispatch(context, group.command).await,
        Command::Kernel(group) => kernel::dispatch(context, group.command).await,
        Command::System(group) => system::dispatch(context, group.command).await,
        Command::Doctor => doctor::run(context).await,
        Command::Config(group) => config::dispatch(context, group.command).await,
        Command::SshConfig(args) => ssh_config::run(context, &args),
        Command::SshProxy(args) => ssh_proxy::run(context, &args).await,
        Command::Daemon(group) => daemon::dispatch(context, group.command).await,
        Command::Completion(args) => completion::run(context, &args),
        Command::Version => version::run(context).await,
    }
}
