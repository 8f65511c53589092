//! Images and kernels over HTTP.

use super::{
    Shared,
    answer::{Body, Named, Refusal, query},
    events::stream_of,
    vms::Force,
};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use banger_proto::{
    api::{
        artifact::{
            BuildImage, BundleImage, CachePruned, Image, ImageBundle, ImageCatalog, ImportKernel, Kernel,
            KernelCatalog, PullImage, PullKernel, RegisterImage,
        },
        event::Event,
    },
    failure::{Code, Failure},
    name::KernelName,
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Available {
    /// Whether to list the catalogs' kernels too.
    #[serde(default)]
    available: bool,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowKernel {
    /// Whether to compare every byte with the manifest.
    #[serde(default)]
    verify: bool,
    /// Whether to look only at this host, not in the catalogs.
    #[serde(default)]
    here: bool,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRun {
    /// Whether only to report what would be removed.
    #[serde(default)]
    dry_run: bool,
}

/// Lists the images on this host.
#[utoipa::path(get, path = "/v1/images", tag = "image", responses((status = 200, body = Vec<Image>)))]
pub(super) async fn images(State(context): State<Shared>) -> Result<Json<Vec<Image>>, Refusal> {
    Ok(Json(context.services.images.list_images().await?))
}

/// Shows one image, by name, id or unique prefix of its id.
#[utoipa::path(get, path = "/v1/images/{ref}", tag = "image", params(("ref" = String, Path)),
    responses((status = 200, body = Image), (status = "4XX", body = Failure)))]
pub(super) async fn image(State(context): State<Shared>, Named(image): Named) -> Result<Json<Image>, Refusal> {
    Ok(Json(context.services.images.show_image(&image).await?))
}

/// Pulls an image from a catalog, a registry or a file.
#[utoipa::path(post, path = "/v1/images/pull", tag = "image", request_body = PullImage,
    responses((status = 200, body = Event<Image>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn pull_image(
    State(context): State<Shared>,
    Body(body): Body<PullImage>,
) -> Result<Response, Refusal> {
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        let images = &context.services.images;
        let image = images.pull_image(body, &operation).await?;
        images.shown(image).await
    }))
}

/// Registers a user's file as an image, without copying it.
#[utoipa::path(post, path = "/v1/images/register", tag = "image", request_body = RegisterImage,
    responses((status = 200, body = Event<Image>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn register_image(
    State(context): State<Shared>,
    Body(body): Body<RegisterImage>,
) -> Result<Response, Refusal> {
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        let images = &context.services.images;
        let image = images.register_image(body, &operation).await?;
        images.shown(image).await
    }))
}

/// Builds an image from Debian packages.
#[utoipa::path(post, path = "/v1/images/build", tag = "image", request_body = BuildImage,
    responses((status = 200, body = Event<Image>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn build_image(
    State(context): State<Shared>,
    Body(body): Body<BuildImage>,
) -> Result<Response, Refusal> {
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        let images = &context.services.images;
        let image = images.build_image(body, &operation).await?;
        images.shown(image).await
    }))
}

/// Copies an image that is a user's file into the store.
#[utoipa::path(post, path = "/v1/images/{ref}/promote", tag = "image", params(("ref" = String, Path)),
    responses((status = 200, body = Event<Image>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn promote_image(State(context): State<Shared>, Named(image): Named) -> Result<Response, Refusal> {
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        let images = &context.services.images;
        let image = images.promote_image(&image, &operation).await?;
        images.shown(image).await
    }))
}

/// Writes an image as a bundle that a catalog can offer.
#[utoipa::path(post, path = "/v1/images/{ref}/bundle", tag = "image", params(("ref" = String, Path)), request_body = BundleImage,
    responses((status = 200, body = Event<ImageBundle>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn bundle_image(
    State(context): State<Shared>,
    Named(image): Named,
    Body(body): Body<BundleImage>,
) -> Result<Response, Refusal> {
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        context.services.images.bundle_image(&image, body, &operation).await
    }))
}

/// Removes layers from the cache that no pull is reading.
#[utoipa::path(post, path = "/v1/images/cache/prune", tag = "image", params(DryRun),
    responses((status = 200, body = CachePruned), (status = "4XX", body = Failure)))]
pub(super) async fn prune_cache(
    State(context): State<Shared>,
    dry: Result<Query<DryRun>, QueryRejection>,
) -> Result<Json<CachePruned>, Refusal> {
    let DryRun { dry_run } = query(dry)?;
    Ok(Json(context.services.images.prune_cache(dry_run).await?))
}

/// Removes a name, and with its last name an image nobody uses; by its id, an image with all its names.
#[utoipa::path(delete, path = "/v1/images/{ref}", tag = "image", params(("ref" = String, Path)),
    responses((status = 200, body = Event<serde_json::Value>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn delete_image(State(context): State<Shared>, Named(image): Named) -> Result<Response, Refusal> {
    context.services.images.ensure_deletable(&image).await?;
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        context.services.images.delete_image(&image, &operation).await
    }))
}

/// Lists the image catalogs with what they offer, highest precedence first.
#[utoipa::path(get, path = "/v1/image-catalogs", tag = "image", responses((status = 200, body = Vec<ImageCatalog>)))]
pub(super) async fn image_catalogs(State(context): State<Shared>) -> Result<Json<Vec<ImageCatalog>>, Refusal> {
    Ok(Json(context.services.images.image_catalogs().await?))
}

/// Lists the kernels on this host, and with `available` those of the catalogs.
#[utoipa::path(get, path = "/v1/kernels", tag = "kernel", params(Available),
    responses((status = 200, body = Vec<Kernel>)))]
pub(super) async fn kernels(
    State(context): State<Shared>,
    available: Result<Query<Available>, QueryRejection>,
) -> Result<Json<Vec<Kernel>>, Refusal> {
    let Available { available } = query(available)?;
    Ok(Json(context.services.images.list_kernels(available).await?))
}

/// Lists the kernel catalogs, highest precedence first.
#[utoipa::path(get, path = "/v1/kernel-catalogs", tag = "kernel", responses((status = 200, body = Vec<KernelCatalog>)))]
pub(super) async fn kernel_catalogs(State(context): State<Shared>) -> Json<Vec<KernelCatalog>> {
    Json(context.services.images.kernel_catalogs().await)
}

/// Shows one kernel.
#[utoipa::path(get, path = "/v1/kernels/{name}", tag = "kernel", params(("name" = String, Path), ShowKernel),
    responses((status = 200, body = Kernel), (status = "4XX", body = Failure)))]
pub(super) async fn kernel(
    State(context): State<Shared>,
    Named(name): Named,
    look: Result<Query<ShowKernel>, QueryRejection>,
) -> Result<Json<Kernel>, Refusal> {
    let ShowKernel { verify, here } = query(look)?;
    let (images, name) = (&context.services.images, kernel_name(&name)?);
    if here {
        images.ensure_kernel_here(&name).await?;
    }
    Ok(Json(images.show_kernel(&name, verify).await?))
}

/// Pulls a kernel from a catalog.
#[utoipa::path(post, path = "/v1/kernels/pull", tag = "kernel", request_body = PullKernel,
    responses((status = 200, body = Event<Kernel>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn pull_kernel(
    State(context): State<Shared>,
    Body(body): Body<PullKernel>,
) -> Result<Response, Refusal> {
    context.services.images.ensure_kernel_pullable(&body.kernel).await?;
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        let images = &context.services.images;
        images.pull_kernel(&body.kernel, body.force, &operation).await?;
        images.show_kernel(&body.kernel, false).await
    }))
}

/// Imports a kernel from a user's directory, package or file.
#[utoipa::path(post, path = "/v1/kernels/import", tag = "kernel", request_body = ImportKernel,
    responses((status = 200, body = Event<Kernel>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn import_kernel(
    State(context): State<Shared>,
    Body(body): Body<ImportKernel>,
) -> Result<Response, Refusal> {
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        let images = &context.services.images;
        let name = body.kernel.clone();
        images.import_kernel(body, &operation).await?;
        images.show_kernel(&name, false).await
    }))
}

/// Deletes a kernel nobody uses; with `force` also one that is in use.
#[utoipa::path(delete, path = "/v1/kernels/{name}", tag = "kernel", params(("name" = String, Path), Force),
    responses((status = 200, body = Event<serde_json::Value>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn delete_kernel(
    State(context): State<Shared>,
    Named(name): Named,
    force: Result<Query<Force>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Force { force } = query(force)?;
    let name = kernel_name(&name)?;
    context.services.images.ensure_kernel_here(&name).await?;
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        context.services.images.delete_kernel(&name, force, &operation).await
    }))
}

fn kernel_name(text: &str) -> Result<KernelName, Failure> {
    text.parse().map_err(|error: banger_proto::name::InvalidName| Failure::new(Code::Invalid, error.to_string()))
}
