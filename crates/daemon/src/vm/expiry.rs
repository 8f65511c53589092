//! Expiry: a VM that has reached its time to live is deleted, and an unused VM is stopped if `auto_stop_after` is set.
//!
//! A VM is in use while a command, a copy or a connection is open, if one was opened since the last check, or if its
//! VMM needs CPU time. The guest is asked only when everything else says that it is idle.

use super::{Op, StopCause, VmService, age};
use crate::{operation::Operation, store::VmRow};
use banger_proto::{api::vm::VmState, failure::Code, name::VmId};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::Instrument as _;

/// Longest time between two checks: the timer stands still while the host sleeps.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Bounds of the time between two checks for idle VMs.
const CHECK_INTERVAL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Share of one CPU, in percent, that an idle guest takes at most for its timer and services.
const IDLE_PERCENT: u128 = 5;

/// Runs the checks until the service is gone.
pub(super) async fn run(service: Weak<VmService>) {
    let mut trackers: HashMap<VmId, IdleTracker> = HashMap::new();
    let mut actions = RunningActions::default();
    loop {
        let Some(service) = service.upgrade() else { return };
        let next = check_all(&service, &mut trackers, &mut actions).await.map(|next| Instant::now() + next);
        // The service is not kept alive by a task that only waits.
        let new_vm = service.new_vm.clone();
        drop(service);
        loop {
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => break,
                () = new_vm.notified() => break,
                // The result is seen at the next check, so that a VM that cannot be deleted is not tried over and over.
                () = actions.next_done() => {}
            }
        }
    }
}

/// Action on a VM that has reached its time to live or is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Delete,
    Stop,
}

/// Actions in progress. Each runs in a task of its own, so that a slow or hostile guest delays no other VM.
#[derive(Debug, Default)]
struct RunningActions {
    tasks: JoinSet<(VmId, Action)>,
    running: HashSet<(VmId, Action)>,
}

impl RunningActions {
    /// Begins an action, unless the same one is in progress for this VM.
    fn begin(&mut self, action: Action, service: &Arc<VmService>, row: &VmRow) {
        let key = (row.id.clone(), action);
        if self.running.insert(key.clone()) {
            let (service, row) = (service.clone(), row.clone());
            self.tasks.spawn(async move {
                match action {
                    Action::Delete => delete(&service, &row).await,
                    Action::Stop => stop(&service, &row).await,
                }
                key
            });
        }
    }

    /// Waits until an action is done; for ever while there is none.
    async fn next_done(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(done)) => {
                self.running.remove(&done);
            }
            // The task panicked, and its VM is unknown: an action may be repeated, but none is skipped.
            Some(Err(_)) => self.running.clear(),
            None => std::future::pending().await,
        }
    }
}

/// Begins the actions that are due. Returns the time until the next check; `None` while there is nothing to check.
async fn check_all(
    service: &Arc<VmService>,
    trackers: &mut HashMap<VmId, IdleTracker>,
    actions: &mut RunningActions,
) -> Option<Duration> {
    let rows = match service.parts.store.vms().await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(%error, "cannot look after the VMs");
            return Some(MAX_SLEEP);
        }
    };
    let now = age::Now::read();
    for row in &rows {
        correct(service, row, &now).await;
    }
    let (due, alive): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| age::time_left(row, &now) == Some(Duration::ZERO));
    let mut next: Vec<Duration> = alive.iter().filter_map(|row| age::time_left(row, &now)).collect();
    // A VM that could not be deleted is tried again.
    next.extend(due.first().map(|_| MAX_SLEEP));
    for row in &due {
        actions.begin(Action::Delete, service, row);
    }
    if let Some(after) = service.parts.config.auto_stop_after.value {
        let after = after.duration();
        let running: Vec<&VmRow> = alive.iter().filter(|row| row.state == VmState::Running).collect();
        trackers.retain(|id, _| running.iter().any(|row| row.id == *id));
        for row in running {
            if is_idle(row, after, trackers) {
                actions.begin(Action::Stop, service, row);
            }
        }
        next.push(check_interval(after));
    }
    next.into_iter().min().map(|next| next.min(MAX_SLEEP))
}

/// Returns the time between two checks of a VM that is stopped after it was idle for `after`.
fn check_interval(after: Duration) -> Duration {
    (after / 4).clamp(CHECK_INTERVAL.0, CHECK_INTERVAL.1)
}

/// Corrects the creation time in a VM's row after the host's clock was set.
async fn correct(service: &Arc<VmService>, row: &VmRow, now: &age::Now) {
    let Some(created_at) = age::corrected(row, now) else { return };
    tracing::info!(vm = %row.name, before = row.created_at, now = created_at, "the host's clock was set");
    if let Err(error) = service.parts.store.set_created(&row.id, created_at).await {
        tracing::error!(vm = %row.name, %error, "cannot write when a VM was created");
    }
}

async fn delete(service: &Arc<VmService>, row: &VmRow) {
    let operation = Operation::unwatched();
    let span = operation.span();
    async {
        tracing::info!(vm = %row.name, "it has reached its age and is deleted");
        if let Err(failure) = service.delete(&row.id, true, &operation).await {
            tracing::error!(vm = %row.name, %failure, "cannot delete a VM that has reached its age");
        }
    }
    .instrument(span)
    .await;
}

/// Whether nothing on the host says that the VM was used during the last `after`.
fn is_idle(row: &VmRow, after: Duration, trackers: &mut HashMap<VmId, IdleTracker>) -> bool {
    let activity =
        Activity { at: Instant::now(), cpu_ms: VmService::cpu_ms(row).unwrap_or(0), last_used: row.last_used };
    let tracker = trackers.entry(row.id.clone()).or_insert(IdleTracker { busy_at: activity.at, last: activity });
    if !tracker.record(activity, check_interval(after)) || activity.at.duration_since(tracker.busy_at) < after {
        return false;
    }
    // Whatever the guest answers, it is asked again only after another whole period.
    tracker.busy_at = activity.at;
    true
}

/// Stops the VM, unless its agent reports open sessions or does not answer.
async fn stop(service: &Arc<VmService>, row: &VmRow) {
    let sessions = match service.agent_of(row) {
        Ok(agent) => agent.stats().await.map(|stats| stats.sessions),
        Err(failure) => Err(failure),
    };
    match sessions {
        Ok(0) => {}
        Ok(sessions) => {
            tracing::debug!(vm = %row.name, sessions, "idle, and somebody is in there");
            return;
        }
        Err(failure) => {
            tracing::warn!(vm = %row.name, %failure, "idle, and it cannot be asked who is in there");
            return;
        }
    }
    // Answering may have taken the guest a while: the VM may have been used or restarted meanwhile.
    let facts = |row: &VmRow| (row.state, row.last_used, row.run.vmm_process);
    if !matches!(service.parts.store.vm(&row.id).await, Ok(Some(now)) if facts(&now) == facts(row)) {
        tracing::debug!(vm = %row.name, "it was idle, and is not what it was");
        return;
    }
    let operation = Operation::unwatched();
    let span = operation.span();
    async {
        tracing::info!(vm = %row.name, "nobody uses it: it is stopped");
        let stop = Op::Stop { grace: None, cause: StopCause::Unused };
        match service.ask(&row.id, stop, &operation).await {
            Ok(()) => {}
            // The VM is in use again, or a client waits for its services. That is no error, however often it happens.
            Err(failure) if failure.code == Code::Conflict => {
                tracing::debug!(vm = %row.name, %failure, "idle, and not to be stopped now");
            }
            Err(failure) => tracing::warn!(vm = %row.name, %failure, "cannot stop a VM nobody uses"),
        }
    }
    .instrument(span)
    .await;
}

/// Activity of a VM at one check.
#[derive(Debug, Clone, Copy)]
struct Activity {
    at: Instant,
    /// CPU time of its VMM, in milliseconds.
    cpu_ms: u64,
    last_used: Option<u64>,
}

/// Activity of a VM over several checks.
#[derive(Debug)]
struct IdleTracker {
    busy_at: Instant,
    last: Activity,
}

impl IdleTracker {
    /// Records the activity. Returns `false` and ignores it if too little time has passed since the last record: CPU
    /// time is counted in ticks, and one tick within a short time is no work. Checks come early when another VM is
    /// created.
    fn record(&mut self, activity: Activity, at_least: Duration) -> bool {
        let passed = activity.at.duration_since(self.last.at);
        if passed < at_least && activity.last_used == self.last.last_used {
            return false;
        }
        let passed = passed.as_millis();
        // The CPU time of another VMM starts at zero. That means that the VM was restarted, which is use.
        let worked = activity.cpu_ms.checked_sub(self.last.cpu_ms);
        let busy = worked.is_none_or(|worked| u128::from(worked) * 100 > passed * IDLE_PERCENT);
        if busy || activity.last_used != self.last.last_used {
            self.busy_at = activity.at;
        }
        self.last = activity;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_guest_is_idle_when_nobody_comes_and_nothing_is_computed() {
        let start = Instant::now();
        let activity = |at: u64, cpu_ms, last_used| Activity { at: start + seconds(at), cpu_ms, last_used };
        let mut tracker = IdleTracker { busy_at: start, last: activity(0, 1_000, None) };
        let mut busy_at = |next: Activity| {
            assert!(tracker.record(next, seconds(10)));
            tracker.busy_at.duration_since(start).as_secs()
        };
        assert_eq!(busy_at(activity(10, 1_400, None)), 0, "4 % of a processor are nothing");
        assert_eq!(busy_at(activity(20, 2_400, None)), 20, "10 % are something");
        assert_eq!(busy_at(activity(30, 2_400, Some(7))), 30, "somebody came");
        assert_eq!(busy_at(activity(40, 2_400, Some(7))), 30);
        assert_eq!(busy_at(activity(50, 100, Some(7))), 50, "another VMM");
        assert_eq!(busy_at(activity(60, 100, Some(7))), 50);
    }

    #[test]
    fn looks_that_other_vms_are_the_reason_for_do_not_make_a_guest_busy() {
        let start = Instant::now();
        let activity =
            |ms: u64, cpu_ms, last_used| Activity { at: start + Duration::from_millis(ms), cpu_ms, last_used };
        let mut tracker = IdleTracker { busy_at: start, last: activity(0, 1_000, None) };
        let mut took = Vec::new();
        // One tick in 500 ms is 2 %, and every third of these checks comes just after one.
        for n in 1..=12 {
            took.push(tracker.record(activity(n * 170, 1_000 + n * 170 / 500 * 10, None), seconds(1)));
        }
        assert_eq!(tracker.busy_at, start);
        assert_eq!(took.iter().filter(|took| **took).count(), 2, "{took:?}");
        assert!(tracker.record(activity(2_050, 1_040, Some(7)), seconds(1)), "somebody came");
        assert_eq!(tracker.busy_at, start + Duration::from_millis(2_050));
    }
}
