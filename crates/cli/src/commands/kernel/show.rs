//! `banger kernel show`.

use super::state;
use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::table::facts,
};
use banger_proto::{api::artifact::Kernel, name::KernelName};
use clap::Args;

/// `banger kernel show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The kernel
    #[arg(add = complete::available_kernels())]
    kernel: KernelName,
}

/// Shows everything about a kernel, and whether its files are still unchanged.
pub(crate) async fn run(context: &Context, args: &ShowArgs) -> Result {
    let path = format!("/v1/kernels/{}?verify=true", segment(args.kernel.as_str()));
    let kernel: Kernel = context.daemon().await?.get(&path).await?;
    context.printer.data(&kernel, |kernel| {
        let users: Vec<&str> = kernel.used_by.iter().map(AsRef::as_ref).collect();
        facts(&[
            ("name", Some(kernel.name.to_string())),
            ("version", Some(kernel.kernel_version.clone())),
            ("distro", Some(kernel.distro.clone())),
            ("arch", Some(kernel.arch.clone())),
            ("state", Some(state(kernel).into())),
            ("problem", kernel.problem.clone()),
            ("description", kernel.description.clone()),
            ("catalog", kernel.catalog.clone()),
            ("size", kernel.size.map(|size| size.to_string())),
            ("download", kernel.download.map(|size| size.to_string())),
            ("sha256", kernel.sha256.clone()),
            ("source", kernel.source.clone()),
            ("imported", kernel.imported_at.clone()),
            ("boot modules", (!kernel.boot_modules.is_empty()).then(|| kernel.boot_modules.join(" "))),
            ("used by", (!users.is_empty()).then(|| users.join(", "))),
            ("images", (!kernel.used_by_images.is_empty()).then(|| kernel.used_by_images.join(", "))),
        ])
    })?;
    Ok(Status::Done)
}
