//! `banger kernel import`.

use crate::{
    arguments::absolute,
    context::Context,
    exit::{Result, Status},
    signals::Signals,
};
use banger_proto::{
    api::artifact::{ImportKernel, Kernel},
    name::KernelName,
};
use clap::{Args, ValueHint};
use hyper::Method;
use std::path::PathBuf;

const INTERRUPTED: &str = "interrupted: the kernel was not imported, and nothing of it is kept";

/// `banger kernel import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Name of the new kernel: <family>-<major.minor> if it is to be published
    kernel: KernelName,
    /// A directory (vmlinux, bzImage or vmlinuz; config; initrd.img; modules/ or lib/modules/<version>/), a Debian
    /// kernel package, or a kernel file
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    from: PathBuf,
    /// Its distribution, such as debian or generic
    #[arg(long)]
    distro: Option<String>,
    /// Its architecture, which has to be this host's
    #[arg(long)]
    arch: Option<String>,
    /// What `uname -r` will print, for a kernel that does not say
    #[arg(long, value_name = "VERSION")]
    kernel_version: Option<String>,
    /// Replace a kernel of that name
    #[arg(short, long)]
    force: bool,
}

/// Imports the kernel, and prints its name.
pub(crate) async fn run(context: &Context, args: ImportArgs) -> Result {
    let request = ImportKernel {
        kernel: args.kernel,
        from: absolute(&args.from)?,
        distro: args.distro,
        arch: args.arch,
        kernel_version: args.kernel_version,
        force: args.force,
    };
    let mut signals = Signals::install()?;
    let kernel = signals
        .guard(INTERRUPTED, async {
            context.daemon().await?.operate::<Kernel>(Method::POST, "/v1/kernels/import", Some(&request)).await
        })
        .await?
        .settle(&context.printer, &mut signals, INTERRUPTED)
        .await?;
    context.printer.data(&kernel, |kernel| kernel.name.to_string())?;
    Ok(Status::Done)
}
