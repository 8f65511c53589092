//! `banger config`.

use crate::{
    cli::GROUP_HELP,
    context::Context,
    exit::{Result, Status},
    output::table::table,
};
use banger_proto::api::host::Setting;
use clap::{Args, Subcommand};

/// `banger config …`.
#[derive(Debug, Args)]
#[command(
    help_template = GROUP_HELP,
    after_help = "Most people want:\n  banger config show      every value and where it comes from",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct ConfigGroup {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// The commands of the group.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every value and the rule that gave it (env, file, host, default)
    Show,
}

pub(crate) async fn dispatch(context: &Context, command: ConfigCommand) -> Result {
    match command {
        ConfigCommand::Show => show(context).await,
    }
}

async fn show(context: &Context) -> Result {
    let settings: Vec<Setting> = context.daemon().await?.get("/v1/config").await?;
    context.printer.data(&settings, |settings| {
        table(
            &["KEY", "VALUE", "SOURCE"],
            settings.iter().map(|setting| {
                let value = if setting.value.is_null() { "-".into() } else { setting.value.to_string() };
                [setting.key.clone(), value, setting.source.to_string()]
            }),
        )
    })?;
    Ok(Status::Done)
}
