//! Deleting several images or kernels: all are looked up before the first is deleted, and each is reported.

use crate::{
    context::Context,
    exit::{Error, Result, Status, interruption},
    signals::Signals,
};
use banger_proto::failure::{Code, Failure};
use hyper::Method;
use serde::{Serialize, de::IgnoredAny};

/// One thing to delete.
#[derive(Debug)]
pub(super) struct Removal {
    /// As it was typed.
    pub(super) name: String,
    /// Where it is looked up.
    pub(super) look: String,
    /// What deletes it.
    pub(super) delete: String,
    /// What an interrupt has left.
    pub(super) undone: &'static str,
}

/// How it went for one; what `--json` prints, in a list. Field names are stable.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    deleted: bool,
    failure: Option<Failure>,
}

/// Deletes what `removals` name.
pub(super) async fn remove(context: &Context, removals: &[Removal]) -> Result {
    let mut daemon = context.daemon().await?;
    for removal in removals {
        // What the daemon has but cannot show is known, and whatever is wrong with it, it may go.
        if let Some(objection) = daemon.objection(&removal.look).await?
            && objection.code != Code::Unavailable
        {
            return Err(objection.into());
        }
    }
    let mut signals = Signals::install()?;
    let mut status = Status::Done;
    let mut reports = Vec::with_capacity(removals.len());
    for removal in removals {
        let result = match status {
            Status::CutShort(_) => Err(interruption("interrupted: nothing was done with it").into()),
            _ => operate(context, &mut signals, &removal.delete, removal.undone).await,
        };
        let failure = match result {
            Ok(()) => None,
            Err(Error::Failed(failure)) => {
                if status == Status::Done {
                    status = Status::SomeFailed;
                }
                Some(failure)
            }
            Err(Error::Interrupted { signal, undone }) => {
                status = Status::CutShort(signal);
                Some(interruption(undone))
            }
            Err(error @ Error::Pipe) => return Err(error),
        };
        reports.push(Report { name: &removal.name, deleted: failure.is_none(), failure });
    }
    if context.printer.json() {
        context.printer.value(&reports)?;
    } else {
        for report in &reports {
            match &report.failure {
                None => context.printer.text(report.name)?,
                Some(failure) => context.printer.failure(failure, false),
            }
        }
    }
    Ok(status)
}

async fn operate(context: &Context, signals: &mut Signals, delete: &str, undone: &str) -> Result<()> {
    let deletion = signals.guard(undone, async {
        context.daemon().await?.operate::<IgnoredAny>(Method::DELETE, delete, None::<&()>).await
    });
    deletion.await?.settle(&context.printer, signals, undone).await.map(drop)
}
