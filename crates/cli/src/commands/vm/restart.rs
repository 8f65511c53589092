//! `banger vm restart`.

use super::{
    each::{self, Request, VmsArg},
    start::OvercommitArg,
    stop::GraceArg,
};
use crate::{context::Context, exit::Result};
use banger_proto::api::vm::RestartVm;
use clap::Args;
use hyper::Method;

/// `banger vm restart`.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    refs: VmsArg,
    #[command(flatten)]
    grace: GraceArg,
    #[command(flatten)]
    memory: OvercommitArg,
}

/// Stops the VMs and starts them again.
pub(crate) async fn run(context: &Context, args: RestartArgs) -> Result {
    let request = Request {
        method: Method::POST,
        suffix: |_| "/restart",
        body: Some(RestartVm { grace_ms: args.grace.ms(), overcommit: args.memory.overcommit }),
        on_interrupt: "interrupted: the VM may be down ('banger ps -a' shows it)",
    };
    each::act(context, each::resolve(context, &args.refs.vms).await?, request).await
}
