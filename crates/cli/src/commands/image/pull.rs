//! `banger image pull`.

use super::make;
use crate::{arguments, complete, context::Context, exit::Result};
use banger_proto::{
    api::artifact::PullImage,
    name::{ImageName, KernelName, PlatformName},
};
use clap::Args;

/// Message for an interrupt. The image may be here nevertheless: only its name or its kernel was missing, or another
/// client waits for the same pull.
const INTERRUPTED: &str =
    "interrupted: unless 'banger image list' shows the image, nothing of it is kept but layers in the cache";

/// `banger image pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger image pull debian-bookworm                 a catalog's image
  banger image pull alpine:3.20                     docker.io/library/alpine:3.20
  banger image pull registry.local:5000/team/app@sha256:…
  banger image pull oci-archive:app.tar             also docker-archive:FILE and oci:DIR; :NAME chooses one of several

Logins are those of docker and podman; $REGISTRY_AUTH_FILE or $DOCKER_CONFIG name others, as there. A registry speaks \
https, or http on a loopback address.")]
pub(crate) struct PullArgs {
    /// A catalog name, an OCI reference, or oci:DIR, oci-archive:FILE, docker-archive:FILE
    #[arg(value_name = "NAME_OR_REF", add = complete::available_images())]
    image: String,
    /// Name on this host [default: its familiar name, such as alpine:3.20]
    #[arg(long)]
    name: Option<ImageName>,
    /// Kernel to boot it with
    #[arg(long, value_name = "KERNEL", add = complete::available_kernels())]
    kernel: Option<KernelName>,
    /// Platform, such as linux/amd64 [default: this host's]
    #[arg(long)]
    platform: Option<PlatformName>,
    /// Take the name from an image that has it, and accept a bundle in place of a lost image
    #[arg(short, long)]
    force: bool,
}

/// Pulls the image, and prints its name.
pub(crate) async fn run(context: &Context, args: PullArgs) -> Result {
    let PullArgs { image, name, kernel, platform, force } = args;
    let logins = arguments::logins(|key| std::env::var_os(key))?;
    let platform = platform.map(String::from);
    let request = PullImage { image: arguments::source(image)?, name, kernel, platform, logins, force };
    let asked = request.name.as_ref().map_or(request.image.as_str(), ImageName::as_str);
    make(context, "/v1/images/pull", Some(&request), asked, INTERRUPTED).await
}
