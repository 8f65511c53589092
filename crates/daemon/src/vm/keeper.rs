//! What time does to VMs: one that has reached its age is deleted, one that nobody uses is stopped, if the
//! configuration says so.
//!
//! In use is a VM with a command, a copy or a connection open, one of those begun since the last look, or a VMM that
//! needs the processor. The guest is asked only when everything else says that it is idle.

use super::{Op, StopCause, VmService};
use crate::{clock, operation::Operation, store::VmRow};
use banger_proto::{api::vm::VmState, failure::Code, name::VmId};
use futures_util::future::join_all;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;
use tracing::Instrument as _;

/// Longest time without a look: a host that sleeps does not count it.
const LONGEST: Duration = Duration::from_secs(60);
/// Bounds of the time between looks at what VMs do.
const LOOKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Share of one processor, in percent, that a guest takes which has nothing to do: its timer, its services.
const IDLE_PERCENT: u128 = 5;

/// Looks after VMs until the service is gone.
pub(super) async fn keep(service: Weak<VmService>) {
    let mut watches: HashMap<VmId, Watch> = HashMap::new();
    loop {
        let Some(service) = service.upgrade() else { return };
        let next = review(&service, &mut watches).await;
        let news = async { service.news.notified().await };
        tokio::select! {
            () = tokio::time::sleep(next.unwrap_or(LONGEST)), if next.is_some() => {}
            () = news => {}
        }
    }
}

/// Does what is due, and says when to look again; never, while there is nothing to look after.
async fn review(service: &Arc<VmService>, watches: &mut HashMap<VmId, Watch>) -> Option<Duration> {
    let rows = match service.parts.store.vms().await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(%error, "cannot look after the VMs");
            return Some(LONGEST);
        }
    };
    let now = clock::now();
    let (due, alive): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| age_left(row, now) == Some(0));
    join_all(due.iter().map(|row| delete(service, row))).await;
    let mut next: Vec<Duration> = alive.iter().filter_map(|row| age_left(row, now)).map(Duration::from_secs).collect();
    // One that could not be deleted is tried again.
    next.extend(due.first().map(|_| LONGEST));
    if let Some(after) = service.parts.config.auto_stop_after.value {
        let after = after.duration();
        let running: Vec<&VmRow> = alive.iter().filter(|row| row.state == VmState::Running).collect();
        watches.retain(|id, _| running.iter().any(|row| row.id == *id));
        let idle: Vec<&VmRow> = running.iter().filter(|row| looks_idle(row, after, watches)).copied().collect();
        join_all(idle.into_iter().map(|row| stop(service, row))).await;
        next.push((after / 4).clamp(LOOKS.0, LOOKS.1));
    }
    next.into_iter().min().map(|next| next.min(LONGEST))
}

/// Seconds until the VM is as old as it may get.
fn age_left(row: &VmRow, now: u64) -> Option<u64> {
    let end = row.created_at.saturating_add(row.spec.ttl?.duration().as_secs());
    Some(end.saturating_sub(now))
}

async fn delete(service: &Arc<VmService>, row: &VmRow) {
    let operation = Operation::silent();
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

/// Whether nothing on this side says that the VM was used for so long.
fn looks_idle(row: &VmRow, after: Duration, watches: &mut HashMap<VmId, Watch>) -> bool {
    let look = Look { at: Instant::now(), cpu_ms: VmService::cpu_ms(row).unwrap_or(0), last_used: row.last_used };
    let watch = watches.entry(row.id.clone()).or_insert(Watch { busy_at: look.at, last: look });
    watch.take(look);
    if look.at.duration_since(watch.busy_at) < after {
        return false;
    }
    // Whatever the guest says, the next question comes one whole time later.
    watch.busy_at = look.at;
    true
}

/// Stops the VM, unless its agent says that somebody is in there, or says nothing.
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
    let operation = Operation::silent();
    let span = operation.span();
    async {
        tracing::info!(vm = %row.name, "nobody uses it: it is stopped");
        let stop = Op::Stop { grace: None, cause: StopCause::Unused };
        match service.ask(&row.id, stop, &operation).await {
            Ok(()) => {}
            // Somebody came, or its services are waited for: nothing is wrong, however often it happens.
            Err(failure) if failure.code == Code::Conflict => {
                tracing::debug!(vm = %row.name, %failure, "idle, and not to be stopped now");
            }
            Err(failure) => tracing::warn!(vm = %row.name, %failure, "cannot stop a VM nobody uses"),
        }
    }
    .instrument(span)
    .await;
}

/// What one look at a VM shows.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// CPU time its VMM has taken.
    cpu_ms: u64,
    last_used: Option<u64>,
}

/// What is remembered of a VM between looks.
#[derive(Debug)]
struct Watch {
    busy_at: Instant,
    last: Look,
}

impl Watch {
    fn take(&mut self, look: Look) {
        let passed = look.at.duration_since(self.last.at).as_millis();
        // Another VMM's clock begins at zero: that is a reboot, and somebody's doing.
        let worked = look.cpu_ms.checked_sub(self.last.cpu_ms);
        let busy = worked.is_none_or(|worked| u128::from(worked) * 100 > passed * IDLE_PERCENT);
        if busy || look.last_used != self.last.last_used {
            self.busy_at = look.at;
        }
        self.last = look;
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
        let look = |at: u64, cpu_ms, last_used| Look { at: start + seconds(at), cpu_ms, last_used };
        let mut watch = Watch { busy_at: start, last: look(0, 1_000, None) };
        let mut busy_at = |next: Look| {
            watch.take(next);
            watch.busy_at.duration_since(start).as_secs()
        };
        assert_eq!(busy_at(look(10, 1_400, None)), 0, "4 % of a processor are nothing");
        assert_eq!(busy_at(look(20, 2_400, None)), 20, "10 % are something");
        assert_eq!(busy_at(look(30, 2_400, Some(7))), 30, "somebody came");
        assert_eq!(busy_at(look(40, 2_400, Some(7))), 30);
        assert_eq!(busy_at(look(50, 100, Some(7))), 50, "another VMM");
        assert_eq!(busy_at(look(60, 100, Some(7))), 50);
    }

    #[test]
    fn age_is_counted_from_creation() {
        let mut row = crate::store::tests::sample("a");
        row.created_at = 1_000;
        assert_eq!(age_left(&row, 9_999), None);
        row.spec.ttl = Some("60s".parse().unwrap());
        assert_eq!([1_000, 1_059, 1_060, 9_999].map(|now| age_left(&row, now)), [Some(60), Some(1), Some(0), Some(0)]);
    }
}
