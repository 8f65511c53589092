//! Taking a VM down: in order if the guest can be asked, by force if it cannot or does not comply.

use super::{
    agent::Agent,
    guest_text::sanitized,
    owner::{Owner, outcome},
    policy::StopCause,
    readopt::readopt,
    release::HELD_HINT,
};
use crate::{failures::Explain as _, operation::Operation};
use banger_machine::{
    failpoint,
    shim::{
        client::{Shim, ShimError},
        control::{ExitCause, ExitRecord},
    },
};
use banger_proto::{
    agent::{boot::Init, event::Power, http::Shutdown},
    api::vm::{KillSignal, VmState},
    failure::{Code, Failure},
};
use std::{io, time::Duration};
use tokio::time::{Instant, timeout};

/// Suffix of a reason that was recorded before the machine was ended by force.
pub(super) const FORCED: &str = ": its machine was ended by force";
/// Time that the machine may take to end after it was told to.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a guest may take to write its data to the disk before it powers off.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Default grace for a guest whose image has an init: its services stop one after the other.
const IMAGE_GRACE: Duration = Duration::from_secs(10);
/// Default grace for a guest whose agent is its init.
const AGENT_GRACE: Duration = Duration::from_secs(2);
/// Largest part of a grace that is reserved for the end itself.
const END_OF_GRACE: Duration = Duration::from_secs(5);
/// Time that a VMM may take to die of a signal.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Powers the VM off in order, within `grace`; then the VMM is killed.
pub(super) async fn stop(
    owner: &mut Owner,
    operation: &Operation,
    grace: Option<Duration>,
    cause: StopCause,
) -> Result<(), Failure> {
    readopt(owner).await?;
    if owner.shim.is_none() {
        return Ok(());
    }
    let before = (owner.row.state, owner.row.reason.take());
    owner.row.state = VmState::Stopping;
    owner.save_or_log().await;
    failpoint::hit("stop.recorded").await;
    let ended = tokio::select! {
        ended = power_off(owner, operation, grace) => ended,
        () = operation.cancel().cancelled() => {
            (owner.row.state, owner.row.reason) = before;
            owner.save_or_log().await;
            return Err(operation.cut_short("the stop was cut short"));
        }
    };
    let reason = match ended {
        Ok(record) => outcome(&record).1.or(owner.remark()),
        Err(why) => end_by_force(owner, operation, &why).await,
    };
    // One failpoint after an orderly and a forced end alike: on a busy host it is chance which of them a stop takes.
    failpoint::hit("stop.ended").await;
    owner.down(VmState::Stopped, cause.said(reason)).await
}

/// Ends a machine by force, because of `why`. Returns the reason to record for it.
async fn end_by_force(owner: &mut Owner, operation: &Operation, why: &str) -> Option<String> {
    let forced = Some(format!("{}{FORCED}", sanitized(why)));
    // Recorded first: a later daemon could not tell this end from any other.
    owner.row.reason.clone_from(&forced);
    owner.save_or_log().await;
    failpoint::hit("stop.forced").await;
    match owner.end_and_wait().await {
        Ok(Some(record)) if record.cause != ExitCause::Ended => outcome(&record).1,
        Ok(_) => forced,
        Err(words) => {
            operation.notice(words.clone());
            Some(words)
        }
    }
}

/// Has the guest write its data to its disk and power off. Returns how it ended, or why it did not. A shim or a VMM
/// that somebody stops meanwhile is woken: otherwise nothing more would be heard of it.
pub(super) async fn power_off(
    owner: &Owner,
    operation: &Operation,
    grace: Option<Duration>,
) -> Result<ExitRecord, String> {
    let Some(shim) = owner.shim.as_ref().filter(|_| owner.row.run.agent_api.is_some()) else {
        let why = "the guest's agent is not up, so it cannot be asked to power off";
        operation.notice(why);
        return Err(why.to_owned());
    };
    tokio::select! {
        ended = power_off_guest(owner, shim, operation, grace) => ended,
        never = shim.keep_awake(|words| operation.notice(words)) => match never {},
    }
}

async fn power_off_guest(
    owner: &Owner,
    shim: &Shim,
    operation: &Operation,
    grace: Option<Duration>,
) -> Result<ExitRecord, String> {
    let grace = grace.unwrap_or_else(|| default_grace(owner.row.run.init));
    let agent = Agent::of(&owner.parts.layout, &owner.row.id);
    operation.begin("writing the guest's data to its disk");
    let guests = guest_grace(grace, owner.row.run.init);
    let body = Shutdown { verb: Power::Poweroff, grace_ms: u64::try_from(guests.as_millis()).unwrap_or(u64::MAX) };
    let began = Instant::now();
    let asked = tokio::select! {
        asked = agent.shutdown(&body, SYNC_TIMEOUT, |absent| {
            operation.notice(format!("{absent}; it is asked again for up to {} s", SYNC_TIMEOUT.as_secs()));
        }) => asked,
        // The guest may power off before its agent's answer is read.
        record = shim.ended() => return Ok(record),
    };
    match asked {
        // An older agent refuses because its guest is already powering off; the guest may still have data to write.
        Err(failure) if failure.code != Code::Conflict => {
            let why = if failure.code == Code::Timeout && began.elapsed() >= SYNC_TIMEOUT {
                format!("the guest did not write its data to its disk within {} s", SYNC_TIMEOUT.as_secs())
            } else {
                format!("the guest cannot be asked to power off: {failure}")
            };
            operation.notice(why.clone());
            return Err(why);
        }
        _ => {}
    }
    failpoint::hit("stop.asked").await;
    operation.begin("waiting for the guest to power off");
    timeout(grace, shim.ended()).await.map_err(|_| {
        let why = format!("the guest did not power off within {} s", grace.as_secs_f32());
        operation.notice(why.clone());
        why
    })
}

/// Returns the grace of a guest for which none was requested. A guest whose init is unknown may have services.
fn default_grace(init: Option<Init>) -> Duration {
    match init {
        Some(Init::Agent) => AGENT_GRACE,
        Some(Init::Auto | Init::Image) | None => IMAGE_GRACE,
    }
}

/// Returns the guest's part of a grace. An agent that is the init kills what ignores SIGTERM, such as a shell, and then
/// syncs and unmounts the disk; that must be done within the grace as well.
fn guest_grace(grace: Duration, init: Option<Init>) -> Duration {
    match init {
        Some(Init::Agent) => grace.saturating_sub((grace / 4).min(END_OF_GRACE)),
        _ => grace,
    }
}

/// Sends a signal to the VMM. It is an error if the VMM still runs afterwards, and it is then left alone. A stopped
/// shim or VMM is woken first, so that it handles the signal.
pub(super) async fn kill(owner: &mut Owner, signal: KillSignal) -> Result<(), Failure> {
    readopt(owner).await?;
    let Some(shim) = owner.shim.clone() else { return Ok(()) };
    shim.wake();
    let sent = send(&shim, signal).await;
    failpoint::hit("kill.sent").await;
    match (timeout(SIGNAL_TIMEOUT, shim.ended()).await, sent) {
        // The machine may have ended before the signal came. The kill has succeeded, and the end is recorded as it was.
        (Ok(record), _) => {
            owner.ended(record).await;
            Ok(())
        }
        (Err(_), _) if signal == KillSignal::Kill => kill_both(owner, &shim).await,
        (Err(_), Err(error)) => Err(error.explain()),
        (Err(_), Ok(())) => {
            let hint = format!("`banger vm kill {}` sends SIGKILL, which no VMM survives", owner.row.name);
            Err(still_runs(owner, signal).hint(hint))
        }
    }
}

/// Has the shim send the signal. SIGKILL is not waited for longer than the timeout.
async fn send(shim: &Shim, signal: KillSignal) -> Result<(), ShimError> {
    let sent = shim.signal(signal);
    if signal != KillSignal::Kill {
        return sent.await;
    }
    timeout(SIGNAL_TIMEOUT, sent).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Kills the VMM of a shim that does not pass SIGKILL on, and the shim.
async fn kill_both(owner: &mut Owner, shim: &Shim) -> Result<(), Failure> {
    if !shim.kill_vmm(SIGNAL_TIMEOUT).await {
        return Err(still_runs(owner, KillSignal::Kill).hint(HELD_HINT));
    }
    // The shim may only be slow, and still record the machine's end.
    if let Ok(record) = timeout(SIGNAL_TIMEOUT, shim.ended()).await {
        owner.ended(record).await;
        return Ok(());
    }
    failpoint::hit("kill.both").await;
    let pid = shim.status().shim.pid;
    let reason = format!("its shim (pid {pid}) did not pass SIGKILL on: it was killed, and its VMM too");
    owner.down(VmState::Stopped, Some(reason)).await
}

fn still_runs(owner: &Owner, signal: KillSignal) -> Failure {
    let (name, after) = (&owner.row.name, SIGNAL_TIMEOUT.as_secs());
    Failure::new(Code::Timeout, format!("VM {name} still runs {after} s after SIG{signal}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_ten_seconds_under_an_images_init_and_two_without() {
        assert_eq!(default_grace(Some(Init::Agent)), Duration::from_secs(2));
        for init in [Some(Init::Image), Some(Init::Auto), None] {
            assert_eq!(default_grace(init), Duration::from_secs(10), "{init:?}");
        }
    }

    #[test]
    fn a_guest_is_down_before_its_grace_is_over() {
        let part = |grace, init| guest_grace(Duration::from_millis(grace), init).as_millis();
        assert_eq!(part(2000, Some(Init::Agent)), 1500);
        assert_eq!(part(120_000, Some(Init::Agent)), 115_000);
        assert_eq!(part(0, Some(Init::Agent)), 0);
        assert_eq!(part(10_000, Some(Init::Image)), 10_000);
    }
}
