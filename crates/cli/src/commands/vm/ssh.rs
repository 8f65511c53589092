//! `banger vm ssh`.

use crate::{
    complete,
    context::Context,
    exit::Result,
    guest,
    ssh::{access, client},
};
use banger_proto::name::VmName;
use clap::Args;
use std::ffi::OsString;

/// `banger vm ssh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger vm ssh demo                     a shell, by the system's ssh
  banger vm ssh demo -- uptime           a command
  banger vm ssh demo -- -L 8080:localhost:80 -N

'banger ssh-config --install' makes plain ssh, scp, rsync, git and editors know VMs by NAME.vm.")]
pub(crate) struct SshArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(value_name = "VM", add = complete::vms())]
    vm: VmName,
    /// Options and a command for ssh
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Replaces this process by ssh, after a check that the VM's agent can be reached.
pub(crate) async fn run(context: &Context, args: SshArgs) -> Result {
    let endpoint = guest::endpoint(context, args.vm.as_str()).await?;
    // The daemon writes the VM's host key before ssh looks for it.
    access::access(context, endpoint.id.as_str()).await?;
    let config = client::write_config(&context.layout)?;
    Err(client::become_ssh(&config, endpoint.name.as_str(), endpoint.user.as_deref(), &args.args).into())
}
