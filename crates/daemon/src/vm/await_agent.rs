//! Waiting for a guest's agent: as long as something moves, and not much longer.

use super::owner::{Owner, Seen};
use crate::{
    operation::Operation,
    shim::control::{ExitCause, ExitRecord},
};
use banger_proto::{
    agent::event::Ready,
    api::vm::Accelerator,
    failure::{Code, Failure},
};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a guest may show no sign of progress.
pub(super) fn patience(accelerator: Option<Accelerator>) -> Duration {
    match accelerator {
        Some(Accelerator::Kvm) => Duration::from_secs(30),
        Some(Accelerator::Tcg) | None => Duration::from_secs(90),
    }
}

/// Waits until the agent of the machine that was just launched (or adopted) answers.
pub(super) async fn agent(owner: &mut Owner, operation: &Operation) -> Result<Ready, Failure> {
    operation.begin("waiting for the guest's agent");
    let patience = patience(owner.row.run.accelerator);
    let mut deadline = Instant::now() + patience;
    loop {
        match next(owner, operation, deadline).await {
            Next::Cancelled => {
                return Err(operation.cut_short(&format!("the start of VM {} was cancelled", owner.row.name)));
            }
            Next::Silence => return Err(owner.not_ready(Code::Timeout, silence("its agent did not answer", patience))),
            Next::Seen(Seen::Ready(ready)) => return Ok(ready),
            Next::Seen(Seen::Ended(record)) => {
                let (code, why) = end(record);
                return Err(owner.not_ready(code, why));
            }
            Next::Seen(Seen::Trouble(words)) => operation.notice(format!("the guest says: {words}")),
            Next::Seen(Seen::Progress) => {}
            // Written down, so that a daemon that comes after this one knows whom to look for.
            Next::Seen(Seen::Changed) => owner.save_or_log().await,
            Next::Seen(Seen::Nothing) => continue,
        }
        deadline = Instant::now() + patience;
    }
}

/// What a wait sees next.
enum Next {
    /// Something of the machine's.
    Seen(Seen),
    /// Nothing, and the deadline passed.
    Silence,
    /// Nobody wants this step any more, or something else is wanted first.
    Cancelled,
}

async fn next(owner: &mut Owner, operation: &Operation, deadline: Instant) -> Next {
    let message = tokio::select! {
        message = owner.next_message() => message,
        () = operation.cancel().cancelled() => return Next::Cancelled,
        () = sleep_until(deadline) => return Next::Silence,
    };
    Next::Seen(owner.take_in(message))
}

pub(super) fn silence(what: &str, patience: Duration) -> String {
    format!("{what}, and the guest showed no progress for {} s", patience.as_secs())
}

/// What the end of a machine means for whoever waited for it.
pub(super) fn end(record: ExitRecord) -> (Code, String) {
    match record.cause {
        ExitCause::Poweroff => (Code::Guest, "the guest powered off".to_owned()),
        ExitCause::Ended | ExitCause::Killed => (Code::Conflict, "it was ended".to_owned()),
        ExitCause::GuestFailed => (Code::Guest, record.reason),
        ExitCause::VmmFailed => (Code::Unavailable, record.reason),
    }
}
