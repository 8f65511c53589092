//! `banger completion`.

use crate::{
    complete::{self, Shell},
    context::Context,
    exit::{Result, Status, internal},
};
use clap::Args;

/// `banger completion SHELL`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(banger completion bash)                                     this bash, now
  banger completion bash > ~/.local/share/bash-completion/completions/banger
  banger completion zsh > ~/.zfunc/_banger                             with ~/.zfunc in $fpath
  banger completion fish > ~/.config/fish/completions/banger.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completion script.
pub(crate) fn run(context: &Context, args: &CompletionArgs) -> Result {
    let script = complete::script(args.shell).map_err(|error| internal("cannot write the script", &error))?;
    context.printer.bytes(&script)?;
    Ok(Status::Done)
}
