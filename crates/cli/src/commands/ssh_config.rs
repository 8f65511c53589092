//! `banger ssh-config`.

use crate::{
    context::Context,
    exit::{Result, Status},
    ssh::{
        client,
        config::{quoted, render},
        user_config::{self, Edit},
    },
};
use banger_proto::failure::{Code, Failure};
use clap::Args;
use std::path::PathBuf;

/// `banger ssh-config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  banger ssh-config --install      ssh demo.vm, scp, sftp, rsync, git and editors reach VMs by name from now on
  banger ssh-config --uninstall    remove what --install added to ~/.ssh/config, and nothing else
  banger ssh-config                print it")]
pub(crate) struct SshConfigArgs {
    /// Include it in ~/.ssh/config
    #[arg(long, conflicts_with = "uninstall")]
    install: bool,
    /// Remove it from ~/.ssh/config
    #[arg(long)]
    uninstall: bool,
}

/// Prints the ssh configuration, or edits the user's.
pub(crate) fn run(context: &Context, args: &SshConfigArgs) -> Result {
    if !args.install && !args.uninstall {
        let text = render(&context.layout, &client::current_program()?, std::env::var_os("BANGER_HOME").as_deref())?;
        context.printer.data(&text, |text| text.trim_end().to_owned())?;
        return Ok(Status::Done);
    }
    let file = users_file()?;
    let (edit, done, already) = if args.install {
        let included = client::write_config(&context.layout)?;
        (
            user_config::install(&file, &quoted(&included)?)?,
            "now includes banger's VMs",
            "includes banger's VMs already",
        )
    } else {
        (user_config::uninstall(&file)?, "includes banger's VMs no longer", "does not include banger's VMs")
    };
    let what = if edit == Edit::Changed { done } else { already };
    context.printer.note(&format!("{} {what}", file.display()));
    Ok(Status::Done)
}

fn users_file() -> std::result::Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    home.map(|home| home.join(".ssh/config"))
        .ok_or_else(|| Failure::new(Code::Unavailable, "cannot tell where your home is").hint("set HOME"))
}
