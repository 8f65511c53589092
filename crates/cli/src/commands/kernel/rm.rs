//! `banger kernel rm`.

use crate::{
    commands::removal::{self, Removal},
    complete,
    context::Context,
    exit::Result,
    http::segment,
};
use banger_proto::name::KernelName;
use clap::Args;

/// `banger kernel rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The kernels
    #[arg(required = true, value_name = "KERNEL", add = complete::kernels())]
    kernels: Vec<KernelName>,
    /// Delete kernels that a VM or image uses, too
    #[arg(short, long)]
    force: bool,
}

/// Deletes the kernels.
pub(crate) async fn run(context: &Context, args: &RmArgs) -> Result {
    let query = if args.force { "?force=true" } else { "" };
    let removals: Vec<Removal> = args
        .kernels
        .iter()
        .map(|kernel| {
            let path = format!("/v1/kernels/{}", segment(kernel.as_str()));
            Removal {
                name: kernel.to_string(),
                show_path: format!("{path}?here=true"),
                delete_path: format!("{path}{query}"),
                on_interrupt: "interrupted: the kernel may be deleted already ('banger kernel list' shows what is left)",
            }
        })
        .collect();
    removal::remove(context, &removals).await
}
