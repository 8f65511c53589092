//! `banger vm stop`.

use super::each::{self, Request, VmsArg};
use crate::{arguments, context::Context, exit::Result};
use banger_proto::api::vm::StopVm;
use clap::Args;
use hyper::Method;
use std::time::Duration;

/// Argument for the time limit of an orderly power-off.
#[derive(Debug, Args)]
pub(super) struct GraceArg {
    /// How long an orderly power-off may take before the VMM is killed, such as 30 or 500ms; at most 1d
    /// [default: 10 s under an image's init, 2 s without]
    #[arg(long, value_name = "TIME", value_parser = arguments::grace)]
    timeout: Option<Duration>,
}

impl GraceArg {
    /// Returns the limit in milliseconds.
    pub(super) fn ms(&self) -> Option<u64> {
        self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
    }
}

/// `banger vm stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    refs: VmsArg,
    #[command(flatten)]
    grace: GraceArg,
}

/// Stops the VMs.
pub(crate) async fn run(context: &Context, args: StopArgs) -> Result {
    let request = Request {
        method: Method::POST,
        suffix: |_| "/stop",
        body: Some(StopVm { grace_ms: args.grace.ms() }),
        on_interrupt: "interrupted: the VM may still be on its way down ('banger ps -a' shows it)",
    };
    each::act(context, each::resolve(context, &args.refs.vms).await?, request).await
}
