//! Waiting for a guest's agent: as long as something moves, and not much longer.

use super::{
    owner::{Owner, Seen},
    silence::Silence,
};
use crate::{
    failures,
    operation::Operation,
    shim::control::{ExitCause, ExitRecord},
};
use banger_proto::{
    agent::event::Ready,
    failure::{Code, Failure},
};
use tokio::time::{Instant, sleep_until};

/// Waits until the agent of the machine that was just launched (or adopted) answers.
pub(super) async fn agent(owner: &mut Owner, operation: &Operation) -> Result<Ready, Failure> {
    operation.begin("waiting for the guest's agent");
    let mut silence = Silence::begin(&owner.row.run);
    loop {
        match next(owner, operation, silence.deadline()).await {
            Next::Cancelled => {
                let what = format!("the start of VM {}", owner.row.name);
                return Err(operation.blame(failures::cancelled(&what)));
            }
            Next::Silence if silence.is_over() => {
                return Err(owner.not_ready(Code::Timeout, silence.words("its agent did not answer")));
            }
            Next::Seen(Seen::Ready(ready)) => return Ok(ready),
            Next::Seen(Seen::Ended(record)) => {
                let (code, why) = end(record);
                return Err(owner.not_ready(code, why));
            }
            Next::Seen(Seen::Trouble(words)) => operation.notice(format!("the guest says: {words}")),
            Next::Seen(Seen::Progress) => {}
            // Written down, so that a daemon that comes after this one knows whom to look for.
            Next::Seen(Seen::Changed) => owner.save_or_log().await,
            Next::Silence | Next::Seen(Seen::Nothing) => continue,
        }
        silence = Silence::begin(&owner.row.run);
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
        // What the guest said was in time, although nobody has read it yet.
        biased;
        () = operation.cancel().cancelled() => return Next::Cancelled,
        message = owner.next_message() => message,
        () = sleep_until(deadline) => return Next::Silence,
    };
    Next::Seen(owner.take_in(message))
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
