//! Age of a VM.
//!
//! The host's wall clock may be set: a host without a battery boots in 1970 and learns the time a minute later.
//! Therefore `--ttl` is counted by the clock that runs since the host's boot, includes sleep and cannot be set. Across
//! boots of the host only the wall clock is left; so each row's creation time is corrected while the boot of the
//! creation lasts, and the next boot starts from the right time. What is shown is corrected at once.

use crate::store::{Birth, VmRow};
use banger_machine::{clock, process::host_boot_id};
use std::time::Duration;

/// Difference between the two clocks, in seconds, from which on the wall clock is taken to have been set.
const MAX_SKEW: u64 = 5;

/// The present time by both clocks.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Seconds since 1970.
    wall: u64,
    /// Id of the host's boot; `None` where it cannot be read.
    boot_id: Option<String>,
    since_boot: Duration,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { wall: clock::now(), boot_id: host_boot_id().ok(), since_boot: clock::since_boot() }
    }

    /// Returns this moment as the birth of a VM.
    pub(super) fn as_birth(&self) -> Option<Birth> {
        let at_ms = u64::try_from(self.since_boot.as_millis()).unwrap_or(u64::MAX);
        Some(Birth { host_boot_id: self.boot_id.clone()?, at_ms })
    }

    /// Returns the seconds since 1970, as a row stores them.
    pub(super) fn wall(&self) -> u64 {
        self.wall
    }

    /// Returns the time since `birth` if that was in this boot of the host.
    fn since(&self, birth: &Birth) -> Option<Duration> {
        let is_this = self.boot_id.as_ref() == Some(&birth.host_boot_id);
        is_this.then(|| self.since_boot.saturating_sub(Duration::from_millis(birth.at_ms)))
    }
}

/// Returns the time until the VM reaches its time to live; `None` for a VM without one.
pub(super) fn time_left(row: &VmRow, now: &Now) -> Option<Duration> {
    let ttl = row.spec.ttl?.duration();
    let age = row.birth.as_ref().and_then(|birth| now.since(birth));
    let age = age.unwrap_or_else(|| Duration::from_secs(now.wall.saturating_sub(row.created_at)));
    Some(ttl.saturating_sub(age))
}

/// Returns the creation time by the present wall clock if the row differs from it.
pub(super) fn corrected(row: &VmRow, now: &Now) -> Option<u64> {
    let age = now.since(row.birth.as_ref()?)?;
    let created_at = now.wall.saturating_sub(age.as_secs());
    (created_at.abs_diff(row.created_at) > MAX_SKEW).then_some(created_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::sample;

    const THEN: u64 = 1_700_000_000;

    fn at(wall: u64, boot_id: &str, since_boot: u64) -> Now {
        Now { wall, boot_id: Some(boot_id.into()), since_boot: Duration::from_secs(since_boot) }
    }

    fn row(created: &Now) -> VmRow {
        let mut row = VmRow { created_at: created.wall(), birth: created.as_birth(), ..sample("a") };
        row.spec.ttl = Some("60s".parse().unwrap());
        row
    }

    #[test]
    fn age_is_counted_from_creation() {
        let created = at(THEN, "a", 100);
        let mut row = row(&created);
        let seconds = |now: &Now| time_left(&row, now).map(|left| left.as_secs());
        for (later, is_left) in [(0, 60), (59, 1), (60, 0), (9_999, 0)] {
            assert_eq!(seconds(&at(THEN + later, "a", 100 + later)), Some(is_left), "in the same boot");
            assert_eq!(seconds(&at(THEN + later, "b", 3)), Some(is_left), "in a later one");
        }
        assert_eq!(
            time_left(&row, &Now { since_boot: Duration::from_millis(159_999), ..created }).unwrap().as_millis(),
            1
        );
        row.spec.ttl = None;
        assert_eq!(time_left(&row, &at(THEN + 9_999, "a", 9_999)), None);
    }

    #[test]
    fn a_clock_that_is_set_makes_no_vm_older_or_younger() {
        // The host booted in 1970 and learns the time later.
        let row = row(&at(30, "a", 30));
        let learnt = at(THEN, "a", 40);
        assert_eq!(time_left(&row, &learnt), Some(Duration::from_secs(50)));
        // Then the clock is set back by mistake.
        assert_eq!(time_left(&row, &at(7, "a", 89)), Some(Duration::from_secs(1)));
        assert_eq!(time_left(&row, &at(7, "a", 90)), Some(Duration::ZERO));
        // The next boot has only the wall clock; it relies on the correction made in this one.
        assert_eq!(corrected(&row, &learnt), Some(THEN - 10));
        let row = VmRow { created_at: THEN - 10, ..row };
        assert_eq!(corrected(&row, &learnt), None);
        assert_eq!(time_left(&row, &at(THEN + 20, "b", 5)), Some(Duration::from_secs(30)));
        assert_eq!(corrected(&row, &at(THEN + 9_999, "b", 5)), None, "nobody knows better");
    }
}
