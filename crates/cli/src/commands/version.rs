//! `banger version`.

use crate::{
    context::Context,
    daemon::VERSION,
    exit::{Result, Status},
};
use banger_proto::api::{API_VERSION, host::Version};
use serde::Serialize;

/// What `--json` prints. Field names are stable.
#[derive(Debug, Serialize)]
struct Versions {
    /// Of this program.
    version: &'static str,
    /// The API it speaks.
    api_version: u32,
    /// The running daemon's, if one runs.
    daemon: Option<Version>,
}

/// Says what this is, and what answers. Starts nothing.
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
