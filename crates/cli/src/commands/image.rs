//! `banger image`.

mod build;
mod bundle;
mod cache;
mod delete;
mod list;
mod promote;
mod pull;
mod register;
mod show;

use crate::{
    cli::GROUP_HELP,
    context::Context,
    exit::{Result, Status},
    signals::Signals,
};
use banger_proto::{
    api::artifact::{Image, ImageState},
    name::ImageName,
};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;

/// `banger image …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "\
Most people want:
  banger image list                      images on this host, and who uses them
  banger image list --available          images that the catalogs offer by name
  banger image pull alpine:3.20          get one before it is needed (vm run does it by itself)",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct ImageGroup {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Get an image from a catalog, a registry or a file
    Pull(pull::PullArgs),
    /// Use an ext4 file of yours as an image, without copying it
    Register(register::RegisterArgs),
    /// List images on this host
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show everything about an image
    Show(show::ShowArgs),
    /// Build a Debian image from this host's apt sources
    Build(build::BuildArgs),
    /// Copy a registered image into banger's own store
    Promote(promote::PromoteArgs),
    /// Write an image as a bundle that a catalog can offer (for maintainers)
    Bundle(bundle::BundleArgs),
    /// Layers kept from pulls
    Cache(cache::CacheGroup),
    /// Delete names, and images that no VM uses
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
}

pub(crate) async fn dispatch(context: &Context, command: ImageCommand) -> Result {
    match command {
        ImageCommand::Pull(args) => pull::run(context, args).await,
        ImageCommand::Register(args) => register::run(context, args).await,
        ImageCommand::List(args) => list::run(context, &args).await,
        ImageCommand::Show(args) => show::run(context, &args).await,
        ImageCommand::Build(args) => build::run(context, args).await,
        ImageCommand::Promote(args) => promote::run(context, &args).await,
        ImageCommand::Bundle(args) => bundle::run(context, &args).await,
        ImageCommand::Cache(group) => cache::run(context, group.command).await,
        ImageCommand::Delete(args) => delete::run(context, &args).await,
    }
}

/// Runs an operation that creates an image, and prints the name by which it was `asked` for.
async fn make(
    context: &Context,
    path: &str,
    request: Option<&impl Serialize>,
    asked: &str,
    on_interrupt: &'static str,
) -> Result {
    let mut signals = Signals::install()?;
    let image = signals
        .guard(on_interrupt, async { context.daemon().await?.operate::<Image>(Method::POST, path, request).await })
        .await?
        .settle(&context.printer, &mut signals, on_interrupt)
        .await?;
    context.printer.data(&image, |image| called(image, asked))?;
    Ok(Status::Done)
}

/// Returns one word that leads to the image: the name by which it was asked for, or another one, or its id.
fn called(image: &Image, asked: &str) -> String {
    let tagged = if asked.rsplit('/').next().unwrap_or(asked).contains([':', '@']) { "" } else { ":latest" };
    let full = format!("{asked}{tagged}");
    let forms = [asked, &full].into_iter().chain(DEFAULTS.iter().filter_map(|default| full.strip_prefix(default)));
    let is_there = |form: &&str| image.names.iter().any(|name| name.as_str() == *form);
    let known = forms.into_iter().find(is_there).or(image.names.first().map(ImageName::as_str));
    known.unwrap_or(image.id.as_str()).to_owned()
}

/// Beginnings that the name of an image leaves out, the longest first.
const DEFAULTS: [&str; 2] = ["docker.io/library/", "docker.io/"];

/// Formats the names of an image for one cell.
fn names(image: &Image) -> String {
    if image.names.is_empty() { "-".into() } else { join(&image.names) }
}

/// Returns the state of an image in one word.
fn state(image: &Image) -> &'static str {
    match image.state {
        ImageState::Ready => "ready",
        ImageState::Unread => "unread",
        ImageState::Damaged => "damaged",
    }
}

/// Whether the image's file belongs to banger.
fn managed(image: &Image) -> &'static str {
    if image.managed { "yes" } else { "no" }
}

/// Joins names for one cell.
fn join<N: ToString>(names: &[N]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_asked_for_is_printed() {
        let image = |names: &[&str]| -> Image {
            serde_json::from_value(serde_json::json!({"id": "0123456789abcdef", "names": names, "digest": "x",
                "source": "x", "size": 1, "managed": true, "created_at": "x"}))
            .unwrap()
        };
        let names = ["alpine:3", "alpine:latest", "host:5000/app:latest", "mine"];
        for (asked, printed) in [
            ("mine", "mine"),
            ("alpine", "alpine:latest"),
            ("docker.io/library/alpine:3", "alpine:3"),
            ("host:5000/app", "host:5000/app:latest"),
            ("oci:/srv/app:v1", "alpine:3"),
        ] {
            assert_eq!(called(&image(&names), asked), printed);
        }
        assert_eq!(called(&image(&[]), "mine"), "0123456789abcdef");
    }
}
