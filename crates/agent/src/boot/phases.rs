//! Durations of the guest's boot steps.

use banger_proto::agent::event::GuestPhase;
use rustix::time::{ClockId, clock_gettime};

/// The steps that have ended so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Phases(Vec<GuestPhase>);

impl Phases {
    /// Records the end of the step `name`.
    pub(crate) fn end(&mut self, name: &str) {
        self.0.push(GuestPhase { name: name.to_owned(), ended_ms: boottime_ms() });
    }

    pub(crate) fn list(&self) -> Vec<GuestPhase> {
        self.0.clone()
    }
}

/// Returns the milliseconds since the kernel started.
pub(crate) fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1000 + part(now.tv_nsec) / 1_000_000
}
