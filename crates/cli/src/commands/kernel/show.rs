//! `banger kernel show`.

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

/// Shows everything about a kernel.
pub(crate) async fn run(context: &Context, args: &ShowArgs) -> Result {
    let path = format!("/v1/kernels/{}", segment(args.kernel.as_str()));
    let kernel: Kernel = context.daemon().await?.get(&path).await?;
    context.printer.data(&kernel, |kernel| {
        let users: Vec<&str> = kernel.used_by.iter().map(AsRef::as_ref).collect();
        facts(&[
            ("name", Some(kernel.name.to_string())),
            ("version", Some(kernel.kernel_version.clone())),
            ("distro", Some(kernel.distro.clone())),
            ("arch", Some(kernel.arch.clone())),
            ("state", Some(if kernel.pulled { "pulled" } else { "available" }.into())),
            ("description", kernel.description.clone()),
            ("size", kernel.size.map(|size| size.to_string())),
            ("sha256", kernel.sha256.clone()),
            ("source", kernel.source.clone()),
            ("imported", kernel.imported_at.clone()),
            ("boot modules", (!kernel.boot_modules.is_empty()).then(|| kernel.boot_modules.join(" "))),
            ("used by", (!users.is_empty()).then(|| users.join(", "))),
        ])
    })?;
    Ok(Status::Done)
}
