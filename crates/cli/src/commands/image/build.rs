//! `banger image build`.

use super::names;
use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    signals::Signals,
};
use banger_proto::{
    api::artifact::{BuildImage, Image},
    name::{ImageName, KernelName},
};
use clap::Args;
use hyper::Method;

const UNDONE: &str = "interrupted: the image was not built, and nothing of it is kept";

/// `banger image build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  banger image build dev --debian bookworm --include build-essential,git

It is built by mmdebstrap from this host's own apt sources, without root.")]
pub(crate) struct BuildArgs {
    /// What it is called from now on
    name: ImageName,
    /// The release of Debian, such as bookworm
    #[arg(long, value_name = "SUITE")]
    debian: String,
    /// Packages besides the essential ones and apt
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    include: Vec<String>,
    /// The kernel it is to be booted with
    #[arg(long, value_name = "KERNEL", add = complete::available_kernels())]
    kernel: Option<KernelName>,
}

/// Builds the image, and prints its names.
pub(crate) async fn run(context: &Context, args: BuildArgs) -> Result {
    let BuildArgs { name, debian, include, kernel } = args;
    let request = BuildImage { name, debian, include, kernel };
    let mut signals = Signals::install()?;
    let image = signals
        .guard(UNDONE, async {
            context.daemon().await?.operate::<Image>(Method::POST, "/v1/images/build", Some(&request)).await
        })
        .await?
        .with_events(context.printer.json())
        .settle(&context.printer, &mut signals, UNDONE)
        .await?;
    context.printer.data(&image, names)?;
    Ok(Status::Done)
}
