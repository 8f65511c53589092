//! `banger image list`.

use super::{join, names, state};
use crate::{
    context::Context,
    exit::{Result, Status},
    output::{age::age, table::table},
};
use banger_proto::api::artifact::Image;

/// Lists the images on this host, and says what is wrong with those that are not as they should be.
pub(crate) async fn run(context: &Context) -> Result {
    let images: Vec<Image> = context.daemon().await?.get("/v1/images").await?;
    context.printer.data(&images, |images| {
        table(
            &["ID", "NAMES", "STATE", "OS", "SIZE", "SOURCE", "USED BY", "AGE"],
            images.iter().map(|image| {
                [
                    image.id.to_string(),
                    names(image),
                    state(image).into(),
                    image.os.clone().unwrap_or_else(|| "-".into()),
                    image.size.to_string(),
                    image.source.clone(),
                    if image.used_by.is_empty() { "-".into() } else { join(&image.used_by) },
                    age(&image.created_at),
                ]
            }),
        )
    })?;
    // In JSON it is where it belongs.
    for image in images.iter().filter(|_| !context.printer.json()) {
        if let Some(problem) = &image.problem {
            let said = std::iter::once(problem).chain(&image.hints).map(String::as_str).collect::<Vec<_>>();
            context.printer.warn(&format!("image {}: {}", image.id, said.join("; ")));
        }
    }
    Ok(Status::Done)
}
