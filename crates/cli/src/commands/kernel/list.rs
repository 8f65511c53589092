//! `banger kernel list`.

use crate::{
    context::Context,
    exit::{Result, Status},
    output::table::table,
};
use banger_proto::api::artifact::Kernel;
use clap::Args;

/// `banger kernel list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Also what the catalog offers
    #[arg(long)]
    available: bool,
}

/// Lists kernels.
pub(crate) async fn run(context: &Context, args: &ListArgs) -> Result {
    let path = if args.available { "/v1/kernels?available=true" } else { "/v1/kernels" };
    let kernels: Vec<Kernel> = context.daemon().await?.get(path).await?;
    context.printer.data(&kernels, |kernels| {
        table(
            &["NAME", "VERSION", "DISTRO", "ARCH", "STATE", "SIZE", "DESCRIPTION"],
            kernels.iter().map(|kernel| {
                [
                    kernel.name.to_string(),
                    kernel.kernel_version.clone(),
                    kernel.distro.clone(),
                    kernel.arch.clone(),
                    if kernel.pulled { "pulled" } else { "available" }.into(),
                    kernel.size.map_or_else(|| "-".into(), |size| size.to_string()),
                    kernel.description.clone().unwrap_or_else(|| "-".into()),
                ]
            }),
        )
    })?;
    Ok(Status::Done)
}
