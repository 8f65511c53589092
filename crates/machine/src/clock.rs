//! The wall clock, in the forms in which banger stores and shows it, and the clock since boot, which cannot be set.
//!
//! Stored times are whole seconds since 1970 (UTC); shown times are RFC 3339. Durations never come from the wall clock.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns whole seconds since 1970; zero if the clock is before that.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns nanoseconds since 1970, for a guest's clock; zero if the clock is before that.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Returns the time since the host's boot, including the time it was asleep.
pub fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}
