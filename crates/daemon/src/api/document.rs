//! The OpenAPI document, generated from the handlers and the types they speak. `docs/openapi.json` is its committed copy.

use super::{artifacts, host, vms};
use utoipa::OpenApi;

/// The API as OpenAPI 3.1.
pub fn document() -> utoipa::openapi::OpenApi {
    Paths::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "bangerd", description = "The API of banger's daemon on its unix socket. Event streams are NDJSON."),
    paths(
        host::version,
        host::daemon,
        host::stop,
        host::config,
        host::openapi,
        vms::list,
        vms::create,
        vms::show,
        vms::delete,
        vms::start,
        vms::stop,
        vms::restart,
        vms::kill,
        vms::guest,
        vms::stats,
        vms::ports,
        vms::logs,
        artifacts::images,
        artifacts::image,
        artifacts::pull_image,
        artifacts::delete_image,
        artifacts::kernels,
        artifacts::kernel,
        artifacts::pull_kernel,
        artifacts::delete_kernel,
    )
)]
struct Paths;
