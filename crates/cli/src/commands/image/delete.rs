//! `banger image delete`.

use crate::{
    commands::removal::{self, Removal},
    complete,
    context::Context,
    exit::Result,
    http::segment,
};
use banger_proto::{api::artifact::Image, name::ImageName};
use clap::Args;

/// `banger image delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The images: name, id, or the beginning of an id
    #[arg(required = true, value_name = "IMAGE", add = complete::images())]
    images: Vec<ImageName>,
}

/// Deletes the images; one that a VM uses is refused by the daemon.
pub(crate) async fn run(context: &Context, args: &DeleteArgs) -> Result {
    let removals: Vec<Removal> = args
        .images
        .iter()
        .map(|image| {
            let look = format!("/v1/images/{}", segment(image.as_str()));
            Removal { name: image.to_string(), delete: look.clone(), look, undone: None }
        })
        .collect();
    removal::remove::<Image>(context, &removals).await
}
