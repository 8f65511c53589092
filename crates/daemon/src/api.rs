//! The HTTP API of `banger_proto::api` over the daemon's unix socket.
//!
//! Handles how requests come in and answers go out: who may connect, how large a body may be, how progress is streamed,
//! how failures look. The meaning of a request is decided by the service that gets it.

mod accept;
mod answer;
mod artifacts;
mod document;
mod events;
mod host;
#[cfg(test)]
mod tests;
mod vms;
mod workspaces;

use crate::{config::Config, wire::Services};
use answer::Named;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    routing::{MethodRouter, get, post, put},
};
use banger_proto::{api::MAX_REQUEST, layout::Layout};
use std::{sync::Arc, time::Instant};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use document::document;

/// Context of the handlers: the services and a few facts about this daemon.
pub(crate) struct Context {
    layout: Layout,
    config: Config,
    services: Services,
    stop: CancellationToken,
    started: Instant,
}

impl Context {
    /// Creates the context. `stop` ends the daemon when it fires.
    pub(crate) fn new(
        layout: Layout,
        config: Config,
        services: Services,
        stop: CancellationToken,
        started: Instant,
    ) -> Self {
        Self { layout, config, services, stop, started }
    }
}

type Shared = Arc<Context>;

/// Serves until `stop` fires. Requests in flight then get a short time to end; streams do not.
pub(crate) async fn serve(listener: UnixListener, context: Context, stop: CancellationToken) {
    accept::serve(listener, router(Arc::new(context)), stop).await;
}

fn router(context: Shared) -> Router {
    Router::new()
        .route("/v1/version", get(host::version))
        .route("/v1/daemon", get(host::daemon))
        .route("/v1/daemon/stop", post(host::stop))
        .route("/v1/config", get(host::config))
        .route("/v1/system/df", get(host::df))
        .route("/v1/openapi.json", get(host::openapi))
        .route("/v1/vms", get(vms::list).post(vms::create))
        .route("/v1/vms/{ref}", get(vms::show).patch(vms::set).delete(vms::delete))
        .route("/v1/vms/{ref}/start", post(vms::start))
        .route("/v1/vms/{ref}/stop", post(vms::stop))
        .route("/v1/vms/{ref}/restart", post(vms::restart))
        .route("/v1/vms/{ref}/kill", post(vms::kill))
        .route("/v1/vms/{ref}/guest", get(vms::guest))
        .route("/v1/vms/{ref}/ssh", post(workspaces::ssh))
        .route("/v1/vms/{ref}/workspace", put(workspaces::record))
        .route("/v1/vms/{ref}/stats", get(vms::stats))
        .route("/v1/vms/{ref}/ports", get(vms::ports))
        .route("/v1/vms/{ref}/egress", get(vms::egress))
        .route("/v1/vms/{ref}/logs", get(vms::logs))
        .route("/v1/images", get(artifacts::images))
        .route("/v1/images/pull", image_called("pull").post(artifacts::pull_image))
        .route("/v1/images/register", image_called("register").post(artifacts::register_image))
        .route("/v1/images/build", image_called("build").post(artifacts::build_image))
        .route("/v1/images/cache/prune", post(artifacts::prune_cache))
        .route("/v1/images/{ref}/promote", post(artifacts::promote_image))
        .route("/v1/images/{ref}/bundle", post(artifacts::bundle_image))
        .route("/v1/images/{ref}", get(artifacts::image).delete(artifacts::delete_image))
        .route("/v1/image-catalogs", get(artifacts::image_catalogs))
        .route("/v1/kernels", get(artifacts::kernels))
        .route("/v1/kernels/pull", kernel_called("pull").post(artifacts::pull_kernel))
        .route("/v1/kernels/import", kernel_called("import").post(artifacts::import_kernel))
        .route("/v1/kernel-catalogs", get(artifacts::kernel_catalogs))
        .route("/v1/kernels/{name}", get(artifacts::kernel).delete(artifacts::delete_kernel))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(context)
}

/// Shows and deletes an image whose name is the last word of another path.
fn image_called(name: &'static str) -> MethodRouter<Shared> {
    let named = move || Named(name.to_owned());
    get(move |context: State<Shared>| artifacts::image(context, named()))
        .delete(move |context: State<Shared>| artifacts::delete_image(context, named()))
}

/// Does the same for a kernel.
fn kernel_called(name: &'static str) -> MethodRouter<Shared> {
    let named = move || Named(name.to_owned());
    get(move |context: State<Shared>, look: Result<Query<_>, QueryRejection>| artifacts::kernel(context, named(), look))
        .delete(move |context: State<Shared>, force: Result<Query<_>, QueryRejection>| {
            artifacts::delete_kernel(context, named(), force)
        })
}
