//! `banger image build`.

use super::make;
use crate::{complete, context::Context, exit::Result};
use banger_proto::{
    api::artifact::BuildImage,
    name::{DebianSuite, ImageName, KernelName},
};
use clap::Args;

const INTERRUPTED: &str = "interrupted: the image was not built, and nothing of it is kept";

/// `banger image build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  banger image build dev --debian bookworm --include build-essential,git

It is built by mmdebstrap from this host's own apt sources, without root.")]
pub(crate) struct BuildArgs {
    /// Name of the new image
    name: ImageName,
    /// Debian release, such as bookworm
    #[arg(long, value_name = "SUITE")]
    debian: DebianSuite,
    /// Packages besides the essential ones and apt
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    include: Vec<String>,
    /// Kernel to boot it with
    #[arg(long, value_name = "KERNEL", add = complete::available_kernels())]
    kernel: Option<KernelName>,
    /// Take the name from an image that has it
    #[arg(short, long)]
    force: bool,
}

/// Builds the image, and prints its name.
pub(crate) async fn run(context: &Context, args: BuildArgs) -> Result {
    let BuildArgs { name, debian, include, kernel, force } = args;
    let request = BuildImage { name, debian: debian.into(), include, kernel, force };
    make(context, "/v1/images/build", Some(&request), request.name.as_str(), INTERRUPTED).await
}
