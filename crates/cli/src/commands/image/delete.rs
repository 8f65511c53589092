//! `banger image delete`.

use crate::{
    commands::removal::{self, Removal},
    complete,
    context::Context,
    exit::Result,
    http::segment,
};
use banger_proto::name::ImageName;
use clap::Args;

const INTERRUPTED: &str = "interrupted: the image may be deleted already ('banger image list' shows what is left)";

/// `banger image delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// A name (with its last name an image goes too), or an id or the beginning of one (the image goes with all its
    /// names)
    #[arg(required = true, value_name = "IMAGE", add = complete::images())]
    images: Vec<ImageName>,
}

/// Deletes names and images. The daemon refuses to delete an image that a VM uses.
pub(crate) async fn run(context: &Context, args: &DeleteArgs) -> Result {
    let removals: Vec<Removal> = args
        .images
        .iter()
        .map(|image| {
            let path = format!("/v1/images/{}", segment(image.as_str()));
            Removal { name: image.to_string(), delete_path: path.clone(), show_path: path, on_interrupt: INTERRUPTED }
        })
        .collect();
    removal::remove(context, &removals).await
}
