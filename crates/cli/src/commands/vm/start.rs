//! `banger vm start`.

use super::each::{self, Request, VmsArg};
use crate::{context::Context, exit::Result};
use clap::Args;
use hyper::Method;

/// `banger vm start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    refs: VmsArg,
}

/// Starts the VMs.
pub(crate) async fn run(context: &Context, args: StartArgs) -> Result {
    let request = Request {
        method: Method::POST,
        suffix: |_| "/start",
        body: None::<()>,
        undone: "interrupted: the daemon takes the start back; the VM stays as it was",
    };
    each::act(context, each::resolve(context, &args.refs.vms).await?, request).await
}
