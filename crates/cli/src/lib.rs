//! The `banger` command, a thin client of the daemon's HTTP API.
//!
//! This crate decides how the command line is parsed, how results, progress and failures look, how a terminal is
//! attached to a guest command, and the exit status. The daemon decides what a VM is, its limits, and what is allowed
//! in which state.

mod arguments;
mod attach;
mod cli;
mod commands;
mod complete;
mod context;
mod copy;
mod daemon;
mod exec;
mod exit;
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod http;
mod output;
mod progress_stream;
mod signals;
mod ssh;
mod stall;
mod workspace;

pub use cli::command;
pub use complete::{Shell, script as completion_script};

use clap::{FromArgMatches as _, error::ErrorKind};
use cli::Cli;
use context::Context;
use output::printer::Printer;
use std::process::ExitCode;

/// Runs the command line of this process and returns its exit status.
pub fn main() -> ExitCode {
    complete::answer_shell();
    let typed: Vec<_> = std::env::args_os().collect();
    let cli = match command().try_get_matches_from(&typed).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &typed),
    };
    let printer = Printer::new(cli.output.json, cli.output.quiet);
    let session = cli.command.is_session();
    let result = Context::new(printer.clone()).map_err(exit::Error::from).and_then(|context| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| exit::internal("cannot start the event loop", &error))?;
        let result = runtime.block_on(commands::dispatch(&context, cli.command));
        // A read of stdin or a write to a blocked pipe may be pending in a thread. It is not waited for.
        runtime.shutdown_background();
        result
    });
    exit::report(&printer, session, result)
}

/// Reports a command line that does not run: help and version on stdout with status 0, a parse error as a failure.
fn refuse(error: &clap::Error, typed: &[std::ffi::OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Help is the requested data, also when it replaces a missing subcommand.
            let _ = Printer::new(false, false).help(&error.render());
            ExitCode::SUCCESS
        }
        _ => exit::usage(error, typed),
    }
}
