//! `banger image list`.

use super::{join, managed, names, state};
use crate::{
    context::Context,
    exit::{Result, Status},
    output::{age::age, table::table},
};
use banger_proto::api::artifact::{Image, ImageCatalog};
use clap::Args;

/// Digits of a digest in one line; `image show` prints all of them.
const DIGITS: usize = 12;

/// `banger image list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// List what the catalogs offer by name instead
    #[arg(long)]
    available: bool,
}

/// Lists images.
pub(crate) async fn run(context: &Context, args: &ListArgs) -> Result {
    if args.available { list_offered(context).await } else { list_here(context).await }
}

/// Lists what the catalogs offer, and warns of those that cannot be read.
async fn list_offered(context: &Context) -> Result {
    let catalogs: Vec<ImageCatalog> = context.daemon().await?.get("/v1/image-catalogs").await?;
    context.printer.data(&catalogs, |catalogs| {
        table(
            &["NAME", "STATE", "KERNEL", "SIZE", "SOURCE", "CATALOG", "DESCRIPTION"],
            catalogs.iter().flat_map(|catalog| catalog.images.iter().map(move |image| (catalog, image))).map(
                |(catalog, image)| {
                    [
                        image.name.to_string(),
                        if image.id.is_some() { "pulled" } else { "available" }.into(),
                        image.kernel.as_ref().map_or_else(|| "-".into(), ToString::to_string),
                        image.download.map_or_else(|| "-".into(), |size| size.to_string()),
                        image.sources.first().cloned().unwrap_or_else(|| "-".into()),
                        catalog.place.clone(),
                        image.description.clone().unwrap_or_else(|| "-".into()),
                    ]
                },
            ),
        )
    })?;
    // JSON has the failure in the catalog itself.
    for failure in catalogs.into_iter().filter_map(|catalog| catalog.failure).filter(|_| !context.printer.json()) {
        context.printer.warn(&[vec![failure.message], failure.causes].concat().join(": "));
    }
    Ok(Status::Done)
}

/// Lists the images on this host, and warns of those that are missing or changed.
async fn list_here(context: &Context) -> Result {
    let images: Vec<Image> = context.daemon().await?.get("/v1/images").await?;
    context.printer.data(&images, |images| {
        table(
            &["ID", "NAMES", "STATE", "MANAGED", "OS", "SIZE", "DIGEST", "SOURCE", "USED BY", "AGE"],
            images.iter().map(|image| {
                [
                    image.id.to_string(),
                    names(image),
                    state(image).into(),
                    managed(image).into(),
                    image.os.clone().unwrap_or_else(|| "-".into()),
                    image.size.to_string(),
                    cut(&image.digest),
                    image.source.clone(),
                    if image.used_by.is_empty() { "-".into() } else { join(&image.used_by) },
                    age(&image.created_at),
                ]
            }),
        )
    })?;
    // JSON has the state in the image itself.
    for image in images.iter().filter(|_| !context.printer.json()) {
        if let Some(problem) = &image.problem {
            let text = std::iter::once(problem).chain(&image.hints).map(String::as_str).collect::<Vec<_>>();
            context.printer.warn(&format!("image {}: {}", image.id, text.join("; ")));
        }
    }
    Ok(Status::Done)
}

/// Shortens a digest to its algorithm and its first digits.
fn cut(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, digits)) => format!("{algorithm}:{}", digits.chars().take(DIGITS).collect::<String>()),
        None => digest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_cut_and_what_is_none_is_not() {
        assert_eq!(cut(&format!("blake3:{}", "0123456789abcdef".repeat(4))), "blake3:0123456789ab");
        assert_eq!(cut("unknown"), "unknown");
    }
}
