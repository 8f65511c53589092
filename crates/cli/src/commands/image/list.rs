//! `banger image list`.

use super::{join, names};
use crate::{
    context::Context,
    exit::{Result, Status},
    output::{age::age, table::table},
};
use banger_proto::api::artifact::Image;

/// Lists the images on this host.
pub(crate) async fn run(context: &Context) -> Result {
    let images: Vec<Image> = context.daemon().await?.get("/v1/images").await?;
    context.printer.data(&images, |images| {
        table(
            &["ID", "NAMES", "OS", "SIZE", "SOURCE", "USED BY", "AGE"],
            images.iter().map(|image| {
                [
                    image.id.to_string(),
                    names(image),
                    image.os.clone().unwrap_or_else(|| "-".into()),
                    image.size.to_string(),
                    image.source.clone(),
                    if image.used_by.is_empty() { "-".into() } else { join(&image.used_by) },
                    age(&image.created_at),
                ]
            }),
        )
    })?;
    Ok(Status::Done)
}
