//! `banger image pull`.

use super::names;
use crate::{
    context::Context,
    exit::{Result, Status},
    signals::Signals,
};
use banger_proto::{
    api::artifact::{Image, PullImage},
    name::ImageName,
};
use clap::Args;
use hyper::Method;

const UNDONE: &str = "interrupted: the image was not pulled, and nothing of it is kept";

/// `banger image pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// A catalog name, such as debian-bookworm
    image: ImageName,
}

/// Gets the image, and prints its names.
pub(crate) async fn run(context: &Context, args: PullArgs) -> Result {
    let request = PullImage { image: args.image };
    let mut signals = Signals::install()?;
    let image = signals
        .guard(UNDONE, async {
            context.daemon().await?.operate::<Image>(Method::POST, "/v1/images/pull", Some(&request)).await
        })
        .await?
        .settle(&context.printer, &mut signals, UNDONE)
        .await?;
    context.printer.data(&image, names)?;
    Ok(Status::Done)
}
