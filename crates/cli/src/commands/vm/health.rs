//! `banger vm health`.

use crate::{
    complete,
    context::Context,
    exit::{Result, Status},
    guest,
    output::table::facts,
};
use banger_proto::{agent::http::Health, name::VmName};
use clap::Args;

/// `banger vm health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The VM: name, id, or the beginning of its id
    #[arg(add = complete::vms())]
    vm: VmName,
}

/// Asks the agent; fails if it does not answer.
pub(crate) async fn run(context: &Context, args: &HealthArgs) -> Result {
    let answer: Health = guest::get(context, args.vm.as_str(), "/healthz").await?;
    let short = |text: &str| guest::excerpt(text.as_bytes());
    let health = Health { version: short(&answer.version), boot_id: short(&answer.boot_id), ..answer };
    context.printer.data(&health, |health| {
        facts(&[
            ("agent", Some(format!("answers, version {} (API {})", health.version, health.api_version))),
            ("up", Some(format!("{} s", health.uptime_ms / 1000))),
            ("init", Some(health.init.to_string())),
            ("boot id", Some(health.boot_id.clone())),
            ("commands", Some(health.execs.to_string())),
        ])
    })?;
    Ok(Status::Done)
}
