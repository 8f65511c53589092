//! `banger kernel pull`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    signals::Signals,
};
use banger_proto::{
    api::artifact::{Kernel, PullKernel},
    name::KernelName,
};
use clap::Args;
use hyper::Method;

/// Message for an interrupt. Another client may wait for the same pull, and get the kernel.
const INTERRUPTED: &str = "interrupted: unless 'banger kernel list' shows the kernel, nothing of it is kept";

/// `banger kernel pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// A catalog name, such as debian-6.1
    #[arg(add = complete::available_kernels())]
    kernel: KernelName,
    /// Pull it again although it is here
    #[arg(short, long)]
    force: bool,
}

/// Pulls the kernel, and prints its name.
pub(crate) async fn run(context: &Context, args: PullArgs) -> Result {
    let request = PullKernel { kernel: args.kernel, force: args.force };
    let mut signals = Signals::install()?;
    let kernel = signals
        .guard(INTERRUPTED, async {
            context.daemon().await?.operate::<Kernel>(Method::POST, "/v1/kernels/pull", Some(&request)).await
        })
        .await?
        .settle(&context.printer, &mut signals, INTERRUPTED)
        .await?;
    context.printer.data(&kernel, |kernel| kernel.name.to_string())?;
    Ok(Status::Done)
}
