//! Wall-clock time as banger writes it down, and the clock beside it that nobody sets.
//!
//! Stored times are whole seconds since 1970 (UTC); shown times are RFC 3339. Durations never come from the wall clock.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970; zero on a clock before that.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nanoseconds since 1970, for a guest's clock; zero on a clock before that.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Time since the host's boot, the time it was asleep included.
pub(crate) fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}
