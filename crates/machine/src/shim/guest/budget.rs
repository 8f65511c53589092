//! How much a guest may announce: a budget per boot, so that no guest can flood its host's log.

use banger_proto::agent::event::{GuestEvent, Power};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Events accepted from one boot; after that only power events count. An honest agent sends some ten.
pub(super) const MAX_EVENTS: usize = 1000;
/// Progress events (`ready`, `booted`) that every boot has, even when earlier boots used up the budget. They do not
/// fill the log.
pub(super) const PROGRESS_EVENTS: usize = 20;
/// Interval in which a boot regains one event that earlier boots used up.
const EVENT_EVERY: Duration = Duration::from_secs(1);
/// Power events accepted from one boot, which may change its mind. An honest agent sends one, and repeats it in each
/// session.
pub(super) const MAX_POWER_EVENTS: usize = 100;
/// Upper bound for the announcements of one boot.
pub(super) const MAX: usize = MAX_EVENTS + PROGRESS_EVENTS + MAX_POWER_EVENTS;

/// The budget of a machine's guest. It applies to a boot, over however many sessions.
#[derive(Debug)]
pub(in crate::shim) struct GuestBudget(Mutex<BootBudget>);

#[derive(Debug)]
struct BootBudget {
    began: Instant,
    /// Events left.
    events: usize,
    /// Progress events left, once `events` is used up.
    progress: usize,
    power_events: usize,
    /// The last accepted power event.
    power: Option<Power>,
}

impl BootBudget {
    fn new(began: Instant, events: usize) -> Self {
        Self { began, events, progress: PROGRESS_EVENTS, power_events: MAX_POWER_EVENTS, power: None }
    }
}

impl GuestBudget {
    pub(in crate::shim) fn new() -> Self {
        Self(Mutex::new(BootBudget::new(Instant::now(), MAX_EVENTS)))
    }

    /// Starts the budget of another boot: the events left plus those regained since. Otherwise a guest that reboots
    /// over and over could fill its host's log.
    pub(in crate::shim) fn begin(&self, now: Instant) {
        let mut boot = self.boot();
        let since = now.saturating_duration_since(boot.began).as_secs() / EVENT_EVERY.as_secs();
        let gained = usize::try_from(since).unwrap_or(usize::MAX);
        let events = boot.events.saturating_add(gained).min(MAX_EVENTS);
        *boot = BootBudget::new(now, events);
    }

    /// Records a power event as the current one.
    pub(in crate::shim) fn record(&self, verb: Power) {
        self.boot().power = Some(verb);
    }

    /// Whether the event repeats the current one, and so means nothing new.
    pub(super) fn is_repeated(&self, verb: Power) -> bool {
        self.boot().power == Some(verb)
    }

    pub(super) fn may_take(&self, event: &GuestEvent) -> bool {
        let mut boot = self.boot();
        let left = match event {
            GuestEvent::Power { .. } => &mut boot.power_events,
            GuestEvent::Ready(_) | GuestEvent::Booted { .. } if boot.events == 0 => &mut boot.progress,
            _ => &mut boot.events,
        };
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    fn boot(&self) -> MutexGuard<'_, BootBudget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
