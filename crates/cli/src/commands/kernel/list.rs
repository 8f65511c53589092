//! `banger kernel list`.

use super::state;
use crate::{
    context::Context,
    exit::{Result, Status},
    output::table::table,
};
use banger_proto::api::artifact::{Kernel, KernelCatalog};
use clap::Args;

/// `banger kernel list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Include what the catalogs offer
    #[arg(long)]
    available: bool,
}

/// Lists kernels.
pub(crate) async fn run(context: &Context, args: &ListArgs) -> Result {
    let mut daemon = context.daemon().await?;
    let path = if args.available { "/v1/kernels?available=true" } else { "/v1/kernels" };
    let kernels: Vec<Kernel> = daemon.get(path).await?;
    if args.available {
        let catalogs: Vec<KernelCatalog> = daemon.get("/v1/kernel-catalogs").await?;
        for failure in catalogs.into_iter().filter_map(|catalog| catalog.failure) {
            context.printer.warn(&[vec![failure.message], failure.causes].concat().join(": "));
        }
    }
    context.printer.data(&kernels, |kernels| {
        table(
            &["NAME", "VERSION", "DISTRO", "ARCH", "STATE", "SIZE", "DESCRIPTION"],
            kernels.iter().map(|kernel| {
                [
                    kernel.name.to_string(),
                    kernel.kernel_version.clone(),
                    kernel.distro.clone(),
                    kernel.arch.clone(),
                    state(kernel).into(),
                    size(kernel),
                    kernel.description.clone().unwrap_or_else(|| "-".into()),
                ]
            }),
        )
    })?;
    Ok(Status::Done)
}

/// Formats the kernel's size on disk, or its download size. The size of a distribution's package is only known to apt,
/// during the pull.
fn size(kernel: &Kernel) -> String {
    let by_apt = !kernel.pulled && kernel.source.as_deref().is_some_and(|source| source.starts_with("apt "));
    match kernel.size.or(kernel.download) {
        Some(size) => size.to_string(),
        None if by_apt => "by apt".into(),
        None => "-".into(),
    }
}
