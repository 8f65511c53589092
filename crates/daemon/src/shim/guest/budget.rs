//! How much a guest may announce: a budget per boot, so that no guest can flood its host's log.

use banger_proto::agent::event::{GuestEvent, Power};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Events taken from one boot; from then on only the last word counts. An honest agent has some ten.
pub(super) const MAX_EVENTS: usize = 1000;
/// Events about how far it came that each boot has, however many those before it had. They fill nobody's log.
pub(super) const PROGRESS_EVENTS: usize = 20;
/// After so long a boot may have one more than what those before it left.
const EVENT_EVERY: Duration = Duration::from_secs(1);
/// Times a boot may change its mind about its end. An honest agent does it once, and again in each session.
pub(super) const MAX_POWER_EVENTS: usize = 100;
/// Upper bound for the announcements of one boot.
pub(super) const MAX: usize = MAX_EVENTS + PROGRESS_EVENTS + MAX_POWER_EVENTS;

/// What was taken from a machine's boots, each in however many sessions.
#[derive(Debug)]
pub(in crate::shim) struct GuestBudget(Mutex<BootBudget>);

#[derive(Debug)]
struct BootBudget {
    began: Instant,
    /// What the boot may still say.
    events: usize,
    /// How often it may say how far it came, once those are used up.
    progress: usize,
    power_events: usize,
    /// The last word that was taken.
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

    /// Another boot begins. It has no more events than were left and time has passed: a guest that reboots over and over
    /// would otherwise fill its host's log.
    pub(in crate::shim) fn begin(&self, now: Instant) {
        let mut boot = self.boot();
        let since = now.saturating_duration_since(boot.began).as_secs() / EVENT_EVERY.as_secs();
        let gained = usize::try_from(since).unwrap_or(usize::MAX);
        let events = boot.events.saturating_add(gained).min(MAX_EVENTS);
        *boot = BootBudget::new(now, events);
    }

    /// This is the guest's last word from here on.
    pub(in crate::shim) fn record(&self, verb: Power) {
        self.boot().power = Some(verb);
    }

    /// Whether it is on record as the last word already: it was said again, and means nothing new.
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
