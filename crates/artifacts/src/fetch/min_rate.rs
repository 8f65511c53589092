//! Minimum rate of a server.
//!
//! It is measured over periods of waiting for the server, so neither a busy reader nor a pause between two bursts
//! counts against it, while a server that sends a byte now and then is given up like one that sends nothing.

use super::FetchError;
use std::time::Duration;

/// Measurement of the current period.
#[derive(Debug, Clone)]
pub(super) struct MinRate {
    period: Duration,
    /// Minimum rate, in bytes per second.
    least: u64,
    waited: Duration,
    came: u64,
}

/// Period in which too little arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slow {
    waited: Duration,
    came: u64,
    least: u64,
}

impl MinRate {
    pub(super) fn new(period: Duration, least: u64) -> Self {
        Self { period, least, waited: Duration::ZERO, came: 0 }
    }

    /// Records that `bytes` arrived after `time` of waiting. Returns an error at the end of a period that was too slow.
    pub(super) fn waited(&mut self, time: Duration, bytes: u64) -> Result<(), Slow> {
        self.waited += time;
        self.came += bytes;
        if self.waited < self.period {
            return Ok(());
        }
        let Self { waited, came, least, .. } = *self;
        (self.waited, self.came) = (Duration::ZERO, 0);
        // At least one byte, however short the period.
        let due = u128::from(least) * waited.as_millis() / 1000;
        if u128::from(came) >= due.max(1) { Ok(()) } else { Err(Slow { waited, came, least }) }
    }
}

impl Slow {
    /// Converts it to an error of a download that has received `received` bytes.
    pub(super) fn into_error(self, received: u64) -> FetchError {
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

    fn measured(steps: &[(Duration, u64)]) -> Result<(), Slow> {
        let mut min_rate = MinRate::new(10 * SECOND, 1000);
        steps.iter().try_for_each(|(time, bytes)| min_rate.waited(*time, *bytes))
    }

    #[test]
    fn a_period_is_measured_at_its_end_and_by_itself() {
        let long = [(9 * SECOND, 0), (9 * SECOND, 18_000), (9 * SECOND, 0), (SECOND, 10_000)];
        assert_eq!(measured(&long), Ok(()), "bursts far apart are enough");
        assert_eq!(measured(&[(Duration::ZERO, 1 << 40); 100]), Ok(()), "who never waits is never too slow");
        let slow = [(10 * SECOND, 1 << 40), (SECOND, 5000), (9 * SECOND, 4999)];
        assert_eq!(
            measured(&slow),
            Err(Slow { waited: 10 * SECOND, came: 9999, least: 1000 }),
            "no credit from before"
        );
    }

    #[test]
    fn drops_that_come_faster_than_anybody_looks_are_seen_too() {
        let drops = vec![(Duration::from_millis(10), 9); 2000];
        assert_eq!(measured(&drops), Err(Slow { waited: 10 * SECOND, came: 9000, least: 1000 }));
        assert_eq!(measured(&vec![(Duration::from_millis(10), 10); 2000]), Ok(()));
    }

    #[test]
    fn silence_and_slowness_are_told_apart() {
        let message = |came| Slow { waited: SECOND, came, least: 8 }.into_error(100 + came).to_string();
        assert_eq!(message(0), "nothing more came for 1 s, after 100 bytes");
        assert_eq!(
            message(7),
            "only 7 bytes came in 1 s, after 100 bytes; less than 8 bytes a second are not waited for"
        );
    }
}
