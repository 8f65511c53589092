//! `banger image register`.

use super::make;
use crate::{arguments::absolute, complete, context::Context, exit::Result};
use banger_proto::{
    api::artifact::RegisterImage,
    name::{ImageName, KernelName},
};
use clap::{Args, ValueHint};
use std::path::PathBuf;

const INTERRUPTED: &str = "interrupted: the image was not registered";

/// `banger image register`.
#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// Name of the new image
    #[arg(long)]
    name: ImageName,
    /// File with an ext4 file system; it is used in place, and VMs refuse to start once it changes
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    rootfs: PathBuf,
    /// Kernel to boot it with [default: as the image was registered before, else `default_kernel` of config.toml]
    #[arg(long, visible_alias = "kernel-ref", value_name = "KERNEL", add = complete::available_kernels(),
        conflicts_with_all = ["kernel_file", "initrd", "modules"])]
    kernel: Option<KernelName>,
    /// Boot it with `default_kernel` of config.toml, whatever it was registered with before
    #[arg(long, conflicts_with_all = ["kernel", "kernel_file", "initrd", "modules"])]
    default_kernel: bool,
    /// Kernel file to boot it with; imported as a kernel with the image's name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel_file: Option<PathBuf>,
    /// That kernel's initrd
    #[arg(long, value_name = "FILE", requires = "kernel_file", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,
    /// That kernel's modules: the content of lib/modules/<version>, or a directory that has it
    #[arg(long, value_name = "DIR", requires = "kernel_file", value_hint = ValueHint::DirPath)]
    modules: Option<PathBuf>,
    /// Take the name from an image that has it, and replace a kernel imported under it
    #[arg(short, long)]
    force: bool,
}

/// Registers the image, and prints its name.
pub(crate) async fn run(context: &Context, args: RegisterArgs) -> Result {
    let maybe = |path: Option<PathBuf>| path.map(|path| absolute(&path)).transpose();
    let request = RegisterImage {
        name: args.name,
        rootfs: absolute(&args.rootfs)?,
        kernel: args.kernel,
        default_kernel: args.default_kernel,
        kernel_file: maybe(args.kernel_file)?,
        initrd: maybe(args.initrd)?,
        modules: maybe(args.modules)?,
        force: args.force,
    };
    make(context, "/v1/images/register", Some(&request), request.name.as_str(), INTERRUPTED).await
}
