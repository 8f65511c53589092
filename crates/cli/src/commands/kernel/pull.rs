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

/// Somebody else may wait for it too, and get it.
const UNDONE: &str = "interrupted: unless 'banger kernel list' shows the kernel, nothing of it is kept";

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

/// Gets the kernel, and prints its name.
pub(crate) async fn run(context: &Context, args: PullArgs) -> Result {
    let request = PullKernel { kernel: args.kernel, force: args.force };
    let mut signals = Signals::install()?;
    let kernel = signals
        .guard(UNDONE, async {
            context.daemon().await?.operate::<Kernel>(Method::POST, "/v1/kernels/pull", Some(&request)).await
        })
        .await?
        .settle(&context.printer, &mut signals, UNDONE)
        .await?;
    context.printer.data(&kernel, |kernel| kernel.name.to_string())?;
    Ok(Status::Done)
}
