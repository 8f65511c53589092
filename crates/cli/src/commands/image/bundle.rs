//! `banger image bundle`.

use crate::{
    arguments::absolute,
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    signals::Signals,
};
use banger_proto::{
    api::artifact::{BundleImage, ImageBundle},
    name::ImageName,
};
use clap::{Args, ValueHint};
use hyper::Method;
use std::path::PathBuf;

const INTERRUPTED: &str = "interrupted: no bundle was written";

/// `banger image bundle`.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The image: name, id, or the beginning of an id
    #[arg(add = complete::images())]
    image: ImageName,
    /// File to write the bundle to
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,
}

/// Writes the bundle, and prints the catalog entry for it.
pub(crate) async fn run(context: &Context, args: &BundleArgs) -> Result {
    let request = BundleImage { output: absolute(&args.output)? };
    let path = format!("/v1/images/{}/bundle", segment(args.image.as_str()));
    let mut signals = Signals::install()?;
    let bundle = signals
        .guard(INTERRUPTED, async {
            context.daemon().await?.operate::<ImageBundle>(Method::POST, &path, Some(&request)).await
        })
        .await?
        .settle(&context.printer, &mut signals, INTERRUPTED)
        .await?;
    // JSON has it in the result.
    if !context.printer.json() {
        context.printer.note(&format!("wrote {} ({})", bundle.path.display(), bundle.size));
    }
    context.printer.data(&bundle, |bundle| format!("{:#}", bundle.entry))?;
    Ok(Status::Done)
}
