//! Definition of the command line: groups, top-level aliases and global options.

use crate::commands::{completion, config, daemon, image, kernel, ssh_config, ssh_proxy, system, vm};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

/// Template of a group's help: description, the most common commands, then everything else.
pub(crate) const GROUP_HELP: &str = "{about}{after-help}\n\n{usage-heading} {usage}\n\n{all-args}";

const EXAMPLES: &str = "\
Most people want:
  banger vm run --rm -- uname -a      run a command in a throw-away VM, get its exit status
  banger vm run                       a shell in a new VM that stays up
  banger ps                           running VMs
  banger exec NAME -- CMD             run a command in one of them";

const FAILURES: &str = "\
Exit status: 0 done, 1 failed, 2 a usage error. run and exec: the guest command's own status (128+n when signal n ended \
it), 125 when banger failed, 126 when the command is not executable, 127 when it was not found.

With --json a failure is one object {code, message, causes, hints, operation} on stdout; on stderr for run and exec, whose stdout \
is the guest command's.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    about = "Throw-away Linux machines, one microVM each",
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{FAILURES}"),
    help_template = GROUP_HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How every command talks.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print data, and a failure, as JSON
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,
    /// Print data and errors only: no progress, no notices
    #[arg(long, global = true, display_order = 901)]
    pub(crate) quiet: bool,
}

/// Everything `banger` can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a VM, start it, and run a command or a shell in it (= vm run)
    Run(vm::run::RunArgs),
    /// Run a command in a VM (= vm exec)
    Exec(vm::exec::ExecArgs),
    /// List running VMs
    Ps(vm::list::PsArgs),
    /// Log in to a VM with the system's ssh (= vm ssh)
    Ssh(vm::ssh::SshArgs),
    /// Copy files between this host and a VM (= vm cp)
    Cp(vm::cp::CpArgs),
    /// Print a VM's console (= vm logs)
    Logs(vm::logs::LogsArgs),
    /// Stop VMs (= vm stop)
    Stop(vm::stop::StopArgs),
    /// Delete VMs and their disks (= vm delete)
    Rm(vm::delete::DeleteArgs),
    /// Virtual machines
    Vm(vm::VmGroup),
    /// Root file system images
    Image(image::ImageGroup),
    /// Guest kernels
    Kernel(kernel::KernelGroup),
    /// Disk space that banger uses on this host
    System(system::SystemGroup),
    /// Check that this host has what banger needs, and say how to fix what is missing
    Doctor,
    /// The configuration in force
    Config(config::ConfigGroup),
    /// Let ssh reach VMs as NAME.vm: print the configuration, or include it in ~/.ssh/config
    SshConfig(ssh_config::SshConfigArgs),
    /// What ssh runs to reach a VM
    #[command(hide = true)]
    SshProxy(ssh_proxy::SshProxyArgs),
    /// The daemon behind this command
    Daemon(daemon::DaemonGroup),
    /// Print a shell's completion script: commands, and names that exist
    Completion(completion::CompletionArgs),
    /// Print the versions of this program and of the running daemon
    Version,
}

impl Command {
    /// Whether the exit status belongs to a guest command.
    pub(crate) fn is_session(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Exec(_)
                | Self::Vm(vm::VmGroup { command: vm::VmCommand::Run(_) | vm::VmCommand::Exec(_) })
        )
    }
}

/// The definition man pages and completions are generated from.
pub fn command() -> clap::Command {
    Cli::command()
}
