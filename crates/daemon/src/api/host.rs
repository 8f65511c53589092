//! The daemon and its configuration over HTTP.

use super::{Shared, answer::Refusal, document::document};
use axum::{Json, extract::State};
use banger_proto::api::{
    API_VERSION,
    host::{DaemonStatus, DiskUsage, Setting, Version},
};

/// Returns the daemon's version and the version of its API.
#[utoipa::path(get, path = "/v1/version", tag = "host", responses((status = 200, body = Version)))]
pub(super) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned(), api_version: API_VERSION })
}

/// Describes the daemon's process.
#[utoipa::path(get, path = "/v1/daemon", tag = "host", responses((status = 200, body = DaemonStatus)))]
pub(super) async fn daemon(State(context): State<Shared>) -> Result<Json<DaemonStatus>, Refusal> {
    Ok(Json(status(&context).await?))
}

/// Ends the daemon. VMs keep running; the next daemon finds them.
#[utoipa::path(post, path = "/v1/daemon/stop", tag = "host", responses((status = 200, body = DaemonStatus)))]
pub(super) async fn stop(State(context): State<Shared>) -> Result<Json<DaemonStatus>, Refusal> {
    let status = status(&context).await?;
    context.stop.cancel();
    Ok(Json(status))
}

async fn status(context: &Shared) -> Result<DaemonStatus, Refusal> {
    let running = context.services.vms.list(true).await?.len();
    Ok(DaemonStatus {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: API_VERSION,
        socket: context.layout.daemon_socket(),
        uptime_s: context.started.elapsed().as_secs(),
        running_vms: u32::try_from(running).unwrap_or(u32::MAX),
    })
}

/// Lists every setting and the rule that gave it.
#[utoipa::path(get, path = "/v1/config", tag = "host", responses((status = 200, body = Vec<Setting>)))]
pub(super) async fn config(State(context): State<Shared>) -> Json<Vec<Setting>> {
    Json(context.config.settings())
}

/// Reports the disk space of banger's files and how much of it can be freed.
#[utoipa::path(get, path = "/v1/system/df", tag = "host", responses((status = 200, body = DiskUsage)))]
pub(super) async fn df(State(context): State<Shared>) -> Result<Json<DiskUsage>, Refusal> {
    Ok(Json(crate::disk_usage::measure(&context.layout, &context.services).await?))
}

/// Returns this document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "host", responses((status = 200, body = Object)))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
