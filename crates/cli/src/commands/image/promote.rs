//! `banger image promote`.

use super::make;
use crate::{complete, context::Context, exit::Result, http::segment};
use banger_proto::name::ImageName;
use clap::Args;

const INTERRUPTED: &str = "interrupted: the image is still the file it was";

/// `banger image promote`.
#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// A registered image: name, id, or the beginning of an id
    #[arg(add = complete::images())]
    image: ImageName,
}

/// Copies the image, and prints its name.
pub(crate) async fn run(context: &Context, args: &PromoteArgs) -> Result {
    let path = format!("/v1/images/{}/promote", segment(args.image.as_str()));
    make(context, &path, None::<&()>, args.image.as_str(), INTERRUPTED).await
}
