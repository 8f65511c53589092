//! Waiting for a guest's agent, as long as the guest makes progress.

use crate::vm::{
    guest_text::sanitized,
    owner::{Effect, Owner},
    watchdog::Watchdog,
};
use crate::{failures, operation::Operation};
use banger_machine::shim::control::{ExitCause, ExitRecord};
use banger_proto::{
    agent::event::Ready,
    failure::{Code, Failure},
};
use tokio::time::{Instant, sleep_until};

/// Waits until the agent of the machine that was just launched or adopted answers.
pub(in crate::vm) async fn wait_ready(owner: &mut Owner, operation: &Operation) -> Result<Ready, Failure> {
    operation.begin("waiting for the guest's agent");
    let mut watchdog = Watchdog::start(&owner.row.run);
    loop {
        match next(owner, operation, watchdog.deadline()).await {
            Next::Cancelled => {
                let what = format!("the start of VM {}", owner.row.name);
                return Err(operation.explain_cancellation(failures::cancelled(&what)));
            }
            Next::Timeout if watchdog.is_expired() => {
                return Err(owner.not_ready(Code::Timeout, watchdog.describe("its agent did not answer")));
            }
            Next::Message(Effect::Ready(ready)) => return Ok(ready),
            Next::Message(Effect::Ended(record)) => {
                let (code, why) = explain_end(&record, owner.remark());
                return Err(owner.not_ready(code, why));
            }
            Next::Message(Effect::Trouble(words)) => operation.notice(format!("the guest says: {words}")),
            Next::Message(Effect::Progress) => {}
            // Recorded, so that a later daemon can find these processes.
            Next::Message(Effect::Changed) => owner.save_or_log().await,
            Next::Timeout | Next::Message(Effect::Nothing) => continue,
        }
        watchdog = Watchdog::start(&owner.row.run);
    }
}

/// Event during the wait.
enum Next {
    /// The machine sent a message with this effect.
    Message(Effect),
    /// The deadline passed without a message.
    Timeout,
    /// The client left, or another step was requested instead.
    Cancelled,
}

async fn next(owner: &mut Owner, operation: &Operation, deadline: Instant) -> Next {
    let message = tokio::select! {
        // Messages come before the deadline, because the guest sent them in time.
        biased;
        () = operation.cancel().cancelled() => return Next::Cancelled,
        message = owner.next_message() => message,
        () = sleep_until(deadline) => return Next::Timeout,
    };
    Next::Message(owner.apply(message))
}

/// Returns the error code and reason for a client that waited while the machine ended. `remark` is the reason for an
/// end that the daemon caused: a guest that powers off because it was told to is not to blame.
pub(in crate::vm) fn explain_end(record: &ExitRecord, remark: Option<String>) -> (Code, String) {
    if let Some(remark) = remark {
        return (Code::Unavailable, remark);
    }
    let code = match record.cause {
        ExitCause::Poweroff | ExitCause::GuestFailed => Code::Guest,
        ExitCause::Ended | ExitCause::Killed => Code::Conflict,
        ExitCause::VmmFailed => Code::Unavailable,
    };
    (code, sanitized(&record.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_not_blamed_for_an_end_that_the_daemon_brought_about() {
        let record = |cause| ExitRecord { cause, reason: "the guest powered off".into(), at: 1 };
        assert_eq!(explain_end(&record(ExitCause::Poweroff), None), (Code::Guest, "the guest powered off".to_owned()));
        let remark = "its shim (pid 7) did not answer for 30 s: its guest was told to power off".to_owned();
        for cause in [ExitCause::Poweroff, ExitCause::Ended, ExitCause::VmmFailed] {
            assert_eq!(
                explain_end(&record(cause), Some(remark.clone())),
                (Code::Unavailable, remark.clone()),
                "{cause:?}"
            );
        }
    }
}
