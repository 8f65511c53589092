//! `banger image list`.

use super::{join, managed, names, state};
use crate::{
    context::Context,
    exit::{Result, Status},
    output::{age::age, table::table},
};
use banger_proto::api::artifact::Image;

/// Digits of a digest in one line; `image show` prints all of them.
const DIGITS: usize = 12;

/// Lists the images on this host, and warns of those that are missing or changed.
pub(crate) async fn run(context: &Context) -> Result {
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
