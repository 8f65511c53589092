//! Waiting for a guest's agent: as long as something moves, and not much longer.

use super::owner::{Owner, Seen};
use crate::{
    failures,
    operation::Operation,
    shim::control::{ExitCause, ExitRecord},
};
use banger_proto::{
    agent::{boot::Init, event::Ready},
    api::vm::{Accelerator, Wait},
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
        match next(owner, operation, deadline).await? {
            None => return Err(owner.not_ready(Code::Timeout, silence("its agent", patience))),
            Some(Seen::Ready(ready)) => return Ok(ready),
            Some(Seen::Ended(record)) => return Err(died(owner, record)),
            Some(Seen::Trouble(words)) => operation.notice(format!("the guest says: {words}")),
            Some(Seen::Progress) => {}
            // Written down, so that a daemon that comes after this one knows whom to look for.
            Some(Seen::Changed) => owner.save_or_log().await,
            Some(Seen::Nothing) => continue,
        }
        deadline = Instant::now() + patience;
    }
}

/// Waits until the image's init has finished booting, where that was asked for and there is one.
pub(super) async fn boot(owner: &mut Owner, operation: &Operation, wait: Wait) -> Result<(), Failure> {
    let services = wait == Wait::Boot && owner.row.run.init != Some(Init::Agent);
    if !services {
        return Ok(());
    }
    operation.begin("waiting for the image's services");
    let patience = patience(owner.row.run.accelerator);
    let mut deadline = Instant::now() + patience;
    while owner.row.run.boot_state.is_none() {
        match next(owner, operation, deadline).await? {
            None => return Err(owner.not_ready(Code::Timeout, silence("its init", patience))),
            Some(Seen::Ended(record)) => return Err(died(owner, record)),
            Some(Seen::Trouble(words)) => operation.notice(format!("the guest says: {words}")),
            Some(_) => {}
        }
        deadline = Instant::now() + patience;
    }
    Ok(())
}

/// The next message, or nothing when the deadline passed.
async fn next(owner: &mut Owner, operation: &Operation, deadline: Instant) -> Result<Option<Seen>, Failure> {
    let message = tokio::select! {
        message = owner.next_message() => message,
        () = operation.cancel().cancelled() => {
            return Err(failures::cancelled(&format!("the start of VM {} was cancelled", owner.row.name)));
        }
        () = sleep_until(deadline) => return Ok(None),
    };
    Ok(Some(owner.take_in(message)))
}

fn silence(who: &str, patience: Duration) -> String {
    format!("{who} did not answer, and the guest showed no progress for {} s", patience.as_secs())
}

/// The machine ended before the guest was ready.
fn died(owner: &Owner, record: ExitRecord) -> Failure {
    let (code, why) = match record.cause {
        ExitCause::Poweroff => (Code::Guest, "the guest powered off".to_owned()),
        ExitCause::Ended | ExitCause::Killed => (Code::Conflict, "it was ended".to_owned()),
        ExitCause::GuestFailed => (Code::Guest, record.reason),
        ExitCause::VmmFailed => (Code::Unavailable, record.reason),
    };
    owner.not_ready(code, why)
}
