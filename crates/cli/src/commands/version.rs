//! `banger version`.

use crate::{
    context::Context,
    daemon::VERSION,
    exit::{Result, Status},
};
use banger_proto::api::{API_VERSION, host::Version};
use serde::Serialize;

/// Versions, as `--json` prints them. Field names are stable.
#[derive(Debug, Serialize)]
struct Versions {
    /// Version of this program.
    version: &'static str,
    /// Version of the API that this program uses.
    api_version: u32,
    /// Versions of the running daemon, if there is one.
    daemon: Option<Version>,
}

/// Prints the versions of this program and of the running daemon. Starts no daemon.
pub(crate) async fn run(context: &Context) -> Result {
    let daemon = match context.running_daemon().await {
        Ok(Some(mut daemon)) => daemon.get("/v1/version").await.ok(),
        _ => None,
    };
    let versions = Versions { version: VERSION, api_version: API_VERSION, daemon };
    context.printer.data(&versions, |versions| {
        let daemon = match &versions.daemon {
            Some(daemon) => format!("daemon {} (API {})", daemon.version, daemon.api_version),
            None => "daemon not running".into(),
        };
        format!("banger {} (API {})\n{daemon}", versions.version, versions.api_version)
    })?;
    Ok(Status::Done)
}
