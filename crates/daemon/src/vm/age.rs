//! How old a VM is.
//!
//! A host sets its clock: one without a battery boots in 1970 and learns the time a minute later. So what `--ttl` counts is
//! counted by the clock that runs since the host's boot, asleep or not, and that nobody sets. Only across boots of the host
//! there is nothing but the wall clock; and what that says of any VM's creation is put right while this boot lasts, so that the
//! next one goes by the truth. What is shown is right at once.

use crate::{
    clock,
    process::host_boot_id,
    store::{Birth, VmRow},
};
use std::time::Duration;

/// How far the two clocks may be apart before that of the wall is taken to have been set.
const MAX_SKEW: u64 = 5;

/// Now, by both clocks.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Seconds since 1970.
    wall: u64,
    /// Which boot of the host this is; nothing where it cannot be told.
    boot_id: Option<String>,
    since_boot: Duration,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { wall: clock::now(), boot_id: host_boot_id().ok(), since_boot: clock::since_boot() }
    }

    /// As the moment of a creation.
    pub(super) fn as_birth(&self) -> Option<Birth> {
        let at_ms = u64::try_from(self.since_boot.as_millis()).unwrap_or(u64::MAX);
        Some(Birth { host_boot_id: self.boot_id.clone()?, at_ms })
    }

    /// As a row has it.
    pub(super) fn wall(&self) -> u64 {
        self.wall
    }

    /// Time since a moment of this boot.
    fn since(&self, birth: &Birth) -> Option<Duration> {
        let is_this = self.boot_id.as_ref() == Some(&birth.host_boot_id);
        is_this.then(|| self.since_boot.saturating_sub(Duration::from_millis(birth.at_ms)))
    }
}

/// Time until the VM is as old as it may get; none for one that may get as old as it likes.
pub(super) fn time_left(row: &VmRow, now: &Now) -> Option<Duration> {
    let ttl = row.spec.ttl?.duration();
    let age = row.birth.as_ref().and_then(|birth| now.since(birth));
    let age = age.unwrap_or_else(|| Duration::from_secs(now.wall.saturating_sub(row.created_at)));
    Some(ttl.saturating_sub(age))
}

/// When the VM was created, by the wall clock as it is now, if its row says something else.
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
        // Booted in 1970, and the time comes later.
        let row = row(&at(30, "a", 30));
        let learnt = at(THEN, "a", 40);
        assert_eq!(time_left(&row, &learnt), Some(Duration::from_secs(50)));
        // And back, by mistake.
        assert_eq!(time_left(&row, &at(7, "a", 89)), Some(Duration::from_secs(1)));
        assert_eq!(time_left(&row, &at(7, "a", 90)), Some(Duration::ZERO));
        // The next boot has the wall clock only: what it goes by was put right in this one.
        assert_eq!(corrected(&row, &learnt), Some(THEN - 10));
        let row = VmRow { created_at: THEN - 10, ..row };
        assert_eq!(corrected(&row, &learnt), None);
        assert_eq!(time_left(&row, &at(THEN + 20, "b", 5)), Some(Duration::from_secs(30)));
        assert_eq!(corrected(&row, &at(THEN + 9_999, "b", 5)), None, "nobody knows better");
    }
}
