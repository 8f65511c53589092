//! What time does to VMs: one that has reached its age is deleted, one that nobody uses is stopped, if the
//! configuration says so.
//!
//! In use is a VM with a command, a copy or a connection open, one of those begun since the last look, or a VMM that
//! needs the processor. The guest is asked only when everything else says that it is idle.

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

/// Longest time without a look: a host that sleeps does not count it.
const LONGEST: Duration = Duration::from_secs(60);
/// Bounds of the time between looks at what VMs do.
const LOOKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Share of one processor, in percent, that a guest takes which has nothing to do: its timer, its services.
const IDLE_PERCENT: u128 = 5;

/// Looks after VMs until the service is gone.
pub(super) async fn keep(service: Weak<VmService>) {
    let mut watches: HashMap<VmId, Watch> = HashMap::new();
    let mut deeds = Deeds::default();
    loop {
        let Some(service) = service.upgrade() else { return };
        let next = review(&service, &mut watches, &mut deeds).await.map(|next| Instant::now() + next);
        // While this only waits, the service is not kept for it.
        let news = service.news.clone();
        drop(service);
        loop {
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => break,
                () = news.notified() => break,
                // What it came to is seen at the next look: one that cannot be deleted is not tried over and over.
                () = deeds.next_done() => {}
            }
        }
    }
}

/// Something done to a VM because of its age or its idleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Deed {
    Delete,
    Stop,
}

/// What is being done to which VMs: a guest that takes its time, or is hostile, holds up no other.
#[derive(Debug, Default)]
struct Deeds {
    tasks: JoinSet<(VmId, Deed)>,
    under_way: HashSet<(VmId, Deed)>,
}

impl Deeds {
    /// Begins it, unless that was done already and it lasts.
    fn begin(&mut self, deed: Deed, service: &Arc<VmService>, row: &VmRow) {
        let key = (row.id.clone(), deed);
        if self.under_way.insert(key.clone()) {
            let (service, row) = (service.clone(), row.clone());
            self.tasks.spawn(async move {
                match deed {
                    Deed::Delete => delete(&service, &row).await,
                    Deed::Stop => stop(&service, &row).await,
                }
                key
            });
        }
    }

    /// Waits until one is done; for ever while there is none.
    async fn next_done(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(done)) => {
                self.under_way.remove(&done);
            }
            // It panicked, and which it was is not known: better twice than never.
            Some(Err(_)) => self.under_way.clear(),
            None => std::future::pending().await,
        }
    }
}

/// Begins what is due, and says when to look again; never, while there is nothing to look after.
async fn review(service: &Arc<VmService>, watches: &mut HashMap<VmId, Watch>, deeds: &mut Deeds) -> Option<Duration> {
    let rows = match service.parts.store.vms().await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(%error, "cannot look after the VMs");
            return Some(LONGEST);
        }
    };
    let now = age::Now::look();
    for row in &rows {
        correct(service, row, &now).await;
    }
    let (due, alive): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| age::left(row, &now) == Some(Duration::ZERO));
    let mut next: Vec<Duration> = alive.iter().filter_map(|row| age::left(row, &now)).collect();
    // One that could not be deleted is tried again.
    next.extend(due.first().map(|_| LONGEST));
    for row in &due {
        deeds.begin(Deed::Delete, service, row);
    }
    if let Some(after) = service.parts.config.auto_stop_after.value {
        let after = after.duration();
        let running: Vec<&VmRow> = alive.iter().filter(|row| row.state == VmState::Running).collect();
        watches.retain(|id, _| running.iter().any(|row| row.id == *id));
        for row in running {
            if looks_idle(row, after, watches) {
                deeds.begin(Deed::Stop, service, row);
            }
        }
        next.push(between_looks(after));
    }
    next.into_iter().min().map(|next| next.min(LONGEST))
}

/// Time between two looks at a VM that is to be stopped once it was idle for so long.
fn between_looks(after: Duration) -> Duration {
    (after / 4).clamp(LOOKS.0, LOOKS.1)
}

/// Has a VM's row say when it was created by the clock as it was set since.
async fn correct(service: &Arc<VmService>, row: &VmRow, now: &age::Now) {
    let Some(created_at) = age::corrected(row, now) else { return };
    tracing::info!(vm = %row.name, before = row.created_at, now = created_at, "the host's clock was set");
    if let Err(error) = service.parts.store.set_created(&row.id, created_at).await {
        tracing::error!(vm = %row.name, %error, "cannot write when a VM was created");
    }
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
    if !watch.take(look, between_looks(after)) || look.at.duration_since(watch.busy_at) < after {
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
    // The guest may have taken its time to answer, and somebody may have come and gone, or had it restarted.
    let facts = |row: &VmRow| (row.state, row.last_used, row.run.vmm_process);
    if !matches!(service.parts.store.vm(&row.id).await, Ok(Some(now)) if facts(&now) == facts(row)) {
        tracing::debug!(vm = %row.name, "it was idle, and is not what it was");
        return;
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
    /// Whether it tells anything. Processor time is counted in ticks: one of them is no work, however little time has
    /// passed since a look that another VM's creation was the reason for.
    fn take(&mut self, look: Look, at_least: Duration) -> bool {
        let passed = look.at.duration_since(self.last.at);
        if passed < at_least && look.last_used == self.last.last_used {
            return false;
        }
        let passed = passed.as_millis();
        // Another VMM's clock begins at zero: that is a reboot, and somebody's doing.
        let worked = look.cpu_ms.checked_sub(self.last.cpu_ms);
        let busy = worked.is_none_or(|worked| u128::from(worked) * 100 > passed * IDLE_PERCENT);
        if busy || look.last_used != self.last.last_used {
            self.busy_at = look.at;
        }
        self.last = look;
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
        let look = |at: u64, cpu_ms, last_used| Look { at: start + seconds(at), cpu_ms, last_used };
        let mut watch = Watch { busy_at: start, last: look(0, 1_000, None) };
        let mut busy_at = |next: Look| {
            assert!(watch.take(next, seconds(10)));
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
    fn looks_that_other_vms_are_the_reason_for_do_not_make_a_guest_busy() {
        let start = Instant::now();
        let look = |ms: u64, cpu_ms, last_used| Look { at: start + Duration::from_millis(ms), cpu_ms, last_used };
        let mut watch = Watch { busy_at: start, last: look(0, 1_000, None) };
        let mut took = Vec::new();
        // A tick each 500 ms is 2 %, and every third of these looks comes just after one.
        for n in 1..=12 {
            took.push(watch.take(look(n * 170, 1_000 + n * 170 / 500 * 10, None), seconds(1)));
        }
        assert_eq!(watch.busy_at, start);
        assert_eq!(took.iter().filter(|took| **took).count(), 2, "{took:?}");
        assert!(watch.take(look(2_050, 1_040, Some(7)), seconds(1)), "somebody came");
        assert_eq!(watch.busy_at, start + Duration::from_millis(2_050));
    }
}
