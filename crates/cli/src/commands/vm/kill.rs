//! `banger vm kill`.

use super::each::{self, Request, VmsArg};
use crate::{arguments, context::Context, exit::Result};
use banger_proto::api::vm::{KillSignal, KillVm};
use clap::Args;
use hyper::Method;

/// `banger vm kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    refs: VmsArg,
    /// TERM, KILL, INT, HUP, QUIT, USR1, USR2 or ABRT
    #[arg(short, long, value_parser = arguments::kill_signal, default_value_t = KillSignal::Kill)]
    signal: KillSignal,
}

/// Sends the signal to the VMMs of the VMs.
pub(crate) async fn run(context: &Context, args: KillArgs) -> Result {
    let request = Request {
        method: Method::POST,
        suffix: |_| "/kill",
        body: Some(KillVm { signal: args.signal }),
        on_interrupt: "interrupted: the signal may have been sent ('banger ps -a' shows the VM)",
    };
    each::act(context, each::resolve(context, &args.refs.vms).await?, request).await
}
