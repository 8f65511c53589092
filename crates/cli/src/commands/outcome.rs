//! The results of a command that acts on several things: each is reported, and together they decide the exit status.

use crate::{
    context::Context,
    exit::{Error, Result, Status, interruption},
};
use banger_proto::failure::Failure;
use serde::Serialize;

/// Splits the result for one thing into its value or its failure, and updates the `status` of the whole command.
///
/// A closed stdout ends the command at once: nobody reads the reports.
pub(super) fn settle<T>(result: Result<T>, status: &mut Status) -> Result<(Option<T>, Option<Failure>)> {
    match result {
        Ok(value) => Ok((Some(value), None)),
        Err(Error::Failed(failure)) => {
            if *status == Status::Done {
                *status = Status::SomeFailed;
            }
            Ok((None, Some(failure)))
        }
        Err(Error::Interrupted { signal, on_interrupt }) => {
            *status = Status::CutShort(signal);
            Ok((None, Some(interruption(on_interrupt))))
        }
        Err(error @ Error::Pipe) => Err(error),
    }
}

/// The result for one thing.
pub(super) trait Report: Serialize {
    /// Name of the thing; printed if it went well.
    fn name(&self) -> &str;
    /// Reason of the failure; printed instead of the name.
    fn failure(&self) -> Option<&Failure>;
}

/// Prints the reports: as one JSON list, or as names on stdout and failures on stderr.
pub(super) fn print(context: &Context, reports: &[impl Report]) -> Result<()> {
    if context.printer.json() {
        return context.printer.value(&reports);
    }
    for report in reports {
        match report.failure() {
            None => context.printer.text(report.name())?,
            Some(failure) => context.printer.failure(failure, false),
        }
    }
    Ok(())
}
