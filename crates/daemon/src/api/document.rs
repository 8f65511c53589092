//! OpenAPI document, generated from the handlers and their types. `docs/openapi.json` is its committed copy.

use super::{artifacts, host, vms, workspaces};
use utoipa::OpenApi;

/// The API in OpenAPI 3.1.
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
        host::df,
        host::openapi,
        vms::list,
        vms::create,
        vms::show,
        vms::set,
        vms::delete,
        vms::start,
        vms::stop,
        vms::restart,
        vms::kill,
        vms::guest,
        workspaces::record,
        workspaces::ssh,
        vms::stats,
        vms::ports,
        vms::egress,
        vms::logs,
        artifacts::images,
        artifacts::image,
        artifacts::pull_image,
        artifacts::register_image,
        artifacts::build_image,
        artifacts::prune_cache,
        artifacts::promote_image,
        artifacts::bundle_image,
        artifacts::delete_image,
        artifacts::image_catalogs,
        artifacts::kernels,
        artifacts::kernel,
        artifacts::pull_kernel,
        artifacts::import_kernel,
        artifacts::kernel_catalogs,
        artifacts::delete_kernel,
    )
)]
struct Paths;

#[cfg(test)]
mod tests {
    use super::*;

    /// `BANGER_UPDATE=1` writes the copy instead of comparing it.
    #[test]
    fn the_committed_copy_is_this_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let now = document().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("BANGER_UPDATE").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == now, "docs/openapi.json is not what the handlers say: run this test with BANGER_UPDATE=1");
    }

    /// Every path in the contract's table is served, and no other.
    #[test]
    fn the_paths_are_those_of_the_contract() {
        let contract = include_str!("../../../proto/src/api.rs");
        let document = document();
        let served: std::collections::BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        let written: std::collections::BTreeSet<&str> = contract
            .lines()
            .filter(|line| line.starts_with("//!"))
            .flat_map(str::split_whitespace)
            .filter(|word| word.starts_with("/v1/") && *word != "/v1/...`,")
            .map(|word| word.split(['[', '?']).next().unwrap_or(word))
            .collect();
        assert_eq!(served, written);
    }
}
