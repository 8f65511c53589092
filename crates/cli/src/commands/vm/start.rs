//! `banger vm start`.

use super::each::{self, Request, VmsArg};
use crate::{context::Context, exit::Result};
use banger_proto::api::vm::StartVm;
use clap::Args;
use hyper::Method;

/// Argument that ignores how much memory is free.
#[derive(Debug, Args)]
pub(super) struct OvercommitArg {
    /// Start even if the host has too little free memory; kept with the VM ('vm set --no-overcommit' undoes it)
    #[arg(long)]
    pub(super) overcommit: bool,
}

/// `banger vm start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    refs: VmsArg,
    #[command(flatten)]
    memory: OvercommitArg,
}

/// Starts the VMs.
pub(crate) async fn run(context: &Context, args: StartArgs) -> Result {
    let request = Request {
        method: Method::POST,
        suffix: |_| "/start",
        body: Some(StartVm { overcommit: args.memory.overcommit }),
        on_interrupt: "interrupted: the start is taken back, unless the guest was up already ('banger ps -a' shows it)",
    };
    each::act(context, each::resolve(context, &args.refs.vms).await?, request).await
}
