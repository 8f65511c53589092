//! `banger image show`.

use super::{join, managed, names, state};
use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    http::segment,
    output::{age::age, table::facts},
};
use banger_proto::{api::artifact::Image, name::ImageName};
use clap::Args;

/// `banger image show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The image: name, id, or the beginning of its id
    #[arg(add = complete::images())]
    image: ImageName,
}

/// Shows everything about an image.
pub(crate) async fn run(context: &Context, args: &ShowArgs) -> Result {
    let path = format!("/v1/images/{}", segment(args.image.as_str()));
    let image: Image = context.daemon().await?.get(&path).await?;
    context.printer.data(&image, |image| {
        let config = image.config.as_ref();
        facts(&[
            ("names", Some(names(image))),
            ("id", Some(image.id.to_string())),
            ("state", Some(state(image).into())),
            ("problem", image.problem.clone()),
            ("hint", (!image.hints.is_empty()).then(|| image.hints.join("; "))),
            ("digest", Some(image.digest.clone())),
            ("os", image.os.clone()),
            ("arch", image.arch.clone()),
            ("init", image.init.clone()),
            ("env", config.and_then(|config| words(config.env.iter().map(|(name, value)| format!("{name}={value}"))))),
            ("workdir", config.and_then(|config| config.workdir.clone())),
            ("user", config.and_then(|config| config.user.clone())),
            ("entrypoint", config.and_then(|config| words(config.entrypoint.iter().cloned()))),
            ("cmd", config.and_then(|config| words(config.cmd.iter().cloned()))),
            ("size", Some(image.size.to_string())),
            ("source", Some(image.source.clone())),
            ("managed", Some(managed(image).into())),
            ("kernel", image.kernel.as_ref().map(ToString::to_string)),
            ("created", Some(format!("{} ({} ago)", image.created_at, age(&image.created_at)))),
            ("used by", (!image.used_by.is_empty()).then(|| join(&image.used_by))),
        ])
    })?;
    Ok(Status::Done)
}

/// Returns the words as an image's configuration has them: a JSON array. Absent where there are none.
fn words(words: impl Iterator<Item = String>) -> Option<String> {
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| serde_json::Value::from(words).to_string())
}
