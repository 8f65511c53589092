//! The OpenAPI document, generated from the handlers and the types they speak. `docs/openapi.json` is its committed copy.

use super::host;
use utoipa::OpenApi;

/// The API as OpenAPI 3.1.
pub fn document() -> utoipa::openapi::OpenApi {
    Paths::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "bangerd", description = "The API of banger's daemon on its unix socket. Event streams are NDJSON."),
    paths(host::version, host::daemon, host::stop, host::config, host::openapi)
)]
struct Paths;
