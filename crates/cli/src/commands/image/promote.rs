//! `banger image promote`.

use super::names;
use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    signals::Signals,
};
use banger_proto::{api::artifact::Image, name::ImageName};
use clap::Args;
use hyper::Method;

const UNDONE: &str = "interrupted: the image is still the file it was";

/// `banger image promote`.
#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// An image that was registered: name, id, or the beginning of an id
    #[arg(add = complete::images())]
    image: ImageName,
}

/// Copies the image, and prints its names.
pub(crate) async fn run(context: &Context, args: &PromoteArgs) -> Result {
    let path = format!("/v1/images/{}/promote", segment(args.image.as_str()));
    let mut signals = Signals::install()?;
    let image = signals
        .guard(UNDONE, async { context.daemon().await?.operate::<Image>(Method::POST, &path, None::<&()>).await })
        .await?
        .settle(&context.printer, &mut signals, UNDONE)
        .await?;
    context.printer.data(&image, names)?;
    Ok(Status::Done)
}
