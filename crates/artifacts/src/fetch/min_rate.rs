//! Whether a server sends enough.
//!
//! Judged over stretches of waiting for it, so that neither a reader who is busy nor a pause between two bursts counts
//! against a server, and one that sends a byte now and then is left as one that sends nothing.

use super::FetchError;
use std::time::Duration;

/// What came in the stretch that runs.
#[derive(Debug, Clone)]
pub(super) struct MinRate {
    stretch: Duration,
    /// Bytes a second.
    least: u64,
    waited: Duration,
    came: u64,
}

/// A stretch in which too little came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slow {
    waited: Duration,
    came: u64,
    least: u64,
}

impl MinRate {
    pub(super) fn new(stretch: Duration, least: u64) -> Self {
        Self { stretch, least, waited: Duration::ZERO, came: 0 }
    }

    /// After `time` of waiting `bytes` came. An error at the end of a stretch that was too slow.
    pub(super) fn waited(&mut self, time: Duration, bytes: u64) -> Result<(), Slow> {
        self.waited += time;
        self.came += bytes;
        if self.waited < self.stretch {
            return Ok(());
        }
        let Self { waited, came, least, .. } = *self;
        (self.waited, self.came) = (Duration::ZERO, 0);
        // At least one byte, however short the stretch.
        let due = u128::from(least) * waited.as_millis() / 1000;
        if u128::from(came) >= due.max(1) { Ok(()) } else { Err(Slow { waited, came, least }) }
    }
}

impl Slow {
    /// As an error of a download of which `received` bytes have come.
    pub(super) fn told(self, received: u64) -> FetchError {
        let Self { waited, came, least } = self;
        let received = received.saturating_sub(came);
        match came {
            0 => FetchError::Stalled { waited, received },
            _ => FetchError::Slow { waited, came, received, least },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn judged(steps: &[(Duration, u64)]) -> Result<(), Slow> {
        let mut min_rate = MinRate::new(10 * SECOND, 1000);
        steps.iter().try_for_each(|(time, bytes)| min_rate.waited(*time, *bytes))
    }

    #[test]
    fn a_stretch_is_judged_at_its_end_and_by_itself() {
        let long = [(9 * SECOND, 0), (9 * SECOND, 18_000), (9 * SECOND, 0), (SECOND, 10_000)];
        assert_eq!(judged(&long), Ok(()), "bursts far apart are enough");
        assert_eq!(judged(&[(Duration::ZERO, 1 << 40); 100]), Ok(()), "who never waits is never too slow");
        let slow = [(10 * SECOND, 1 << 40), (SECOND, 5000), (9 * SECOND, 4999)];
        assert_eq!(judged(&slow), Err(Slow { waited: 10 * SECOND, came: 9999, least: 1000 }), "no credit from before");
    }

    #[test]
    fn drops_that_come_faster_than_anybody_looks_are_seen_too() {
        let drops = vec![(Duration::from_millis(10), 9); 2000];
        assert_eq!(judged(&drops), Err(Slow { waited: 10 * SECOND, came: 9000, least: 1000 }));
        assert_eq!(judged(&vec![(Duration::from_millis(10), 10); 2000]), Ok(()));
    }

    #[test]
    fn silence_and_slowness_are_told_apart() {
        let told = |came| Slow { waited: SECOND, came, least: 8 }.told(100 + came).to_string();
        assert_eq!(told(0), "nothing more came for 1 s, after 100 bytes");
        assert_eq!(told(7), "only 7 bytes came in 1 s, after 100 bytes; less than 8 bytes a second are not waited for");
    }
}
