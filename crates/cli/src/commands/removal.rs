//! Deletes several images or kernels: all are looked up before the first is deleted, and each is reported.

use super::outcome;
use crate::{
    context::Context,
    exit::{Result, Status, interruption},
    signals::Signals,
};
use banger_proto::failure::{Code, Failure};
use hyper::Method;
use serde::{Serialize, de::IgnoredAny};

/// One thing to delete.
#[derive(Debug)]
pub(super) struct Removal {
    /// Name as it was typed.
    pub(super) name: String,
    /// API path for the look-up.
    pub(super) show_path: String,
    /// API path for the deletion.
    pub(super) delete_path: String,
    /// Message for an interrupt during the deletion.
    pub(super) on_interrupt: &'static str,
}

/// Result for one of them, as `--json` prints it in a list. Field names are stable.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    deleted: bool,
    failure: Option<Failure>,
}

impl outcome::Report for Report<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

/// Deletes everything in `removals`.
pub(super) async fn remove(context: &Context, removals: &[Removal]) -> Result {
    let mut daemon = context.daemon().await?;
    for removal in removals {
        // A thing that the daemon has but cannot show exists, and may be deleted, whatever is wrong with it.
        if let Some(objection) = daemon.get_failure(&removal.show_path).await?
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
            _ => operate(context, &mut signals, &removal.delete_path, removal.on_interrupt).await,
        };
        let (deleted, failure) = outcome::settle(result, &mut status)?;
        reports.push(Report { name: &removal.name, deleted: deleted.is_some(), failure });
    }
    outcome::print(context, &reports)?;
    Ok(status)
}

async fn operate(context: &Context, signals: &mut Signals, delete: &str, on_interrupt: &str) -> Result<()> {
    let deletion = signals.guard(on_interrupt, async {
        context.daemon().await?.operate::<IgnoredAny>(Method::DELETE, delete, None::<&()>).await
    });
    deletion.await?.settle(&context.printer, signals, on_interrupt).await.map(drop)
}
