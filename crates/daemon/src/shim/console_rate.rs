//! How fast a guest's console is read: a bucket of bytes that fills with time, and a rest after each read.
//!
//! A guest writes to its console as fast as somebody reads, and every byte costs its host something. What a boot says
//! is far below this; a guest that floods is slowed down, and nobody but itself waits.

use std::time::Duration;
use tokio::time::Instant;

/// Bytes that are read at once.
pub(super) const CHUNK: usize = 16 << 10;
/// Bytes that are read at any speed: more than a noisy boot says.
const BURST: i64 = 2 << 20;
/// Bytes a second from then on.
const RATE: i64 = 4 << 20;

/// Least time between two reads. A monitor writes byte by byte, and to be woken for each costs more than all the rest;
/// meanwhile they gather in the pipe, which holds what a guest may say in this time many times over.
const PAUSE: Duration = Duration::from_millis(2);

/// In nanoseconds.
const SECOND: u128 = 1_000_000_000;

/// The bucket.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Negative when what was read is still to be earned.
    bytes: i64,
    filled: Instant,
    paused_until: Instant,
}

impl TokenBucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: BURST, filled: now, paused_until: now }
    }

    /// When `count` bytes may be read: `now`, if there are so many and the last read was a while ago. `count` is less
    /// than a burst.
    pub(super) fn ready_at(&mut self, count: usize, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let fresh = i64::try_from(passed * u128::from(RATE.unsigned_abs()) / SECOND).unwrap_or(i64::MAX);
        if fresh > 0 {
            self.bytes = self.bytes.saturating_add(fresh).min(BURST);
            // What is not a whole byte yet is lost: too slow by a byte now and then, never too fast.
            self.filled = now;
        }
        let missing = signed(count).saturating_sub(self.bytes).max(0);
        let earned = now + Duration::from_micros((missing * 1_000_000 / RATE).unsigned_abs() + u64::from(missing > 0));
        earned.max(self.paused_until)
    }

    /// So many were read just now.
    pub(super) fn take(&mut self, count: usize, now: Instant) {
        self.paused_until = now + PAUSE;
        self.bytes = self.bytes.saturating_sub(signed(count));
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: usize = 2 << 20;

    #[test]
    fn a_flood_is_read_at_the_rate_and_a_rest_gives_no_more_than_a_burst() {
        let start = Instant::now();
        let (mut bucket, mut now, mut read) = (TokenBucket::new(start), start, 0);
        while read < BURST + 10 * RATE {
            now = bucket.ready_at(CHUNK, now);
            bucket.take(CHUNK, now);
            read += signed(CHUNK);
        }
        let took = now.duration_since(start).as_secs_f64();
        assert!((9.99..10.1).contains(&took), "{took} s for a burst and ten seconds' worth");
        now += Duration::from_secs(3600);
        assert_eq!(signed(WHOLE), BURST);
        assert_eq!(bucket.ready_at(WHOLE, now), now);
        bucket.take(WHOLE, now);
        assert!(bucket.ready_at(CHUNK, now) > now);
    }

    proptest! {
        /// Whoever reads when it is told to never reads more in any time than a burst and what that time is worth, and
        /// rests after each read.
        #[test]
        fn no_interval_has_more_than_its_share(steps in proptest::collection::vec((1..4 * CHUNK, 0_u64..20_000_000), 1..400)) {
            let start = Instant::now();
            let (mut bucket, mut now) = (TokenBucket::new(start), start);
            let mut reads = Vec::new();
            for (count, pause) in steps {
                now += Duration::from_nanos(pause);
                now = bucket.ready_at(count, now);
                bucket.take(count, now);
                reads.push((now, count as u128));
            }
            prop_assert!(reads.windows(2).all(|pair| pair[1].0 - pair[0].0 >= PAUSE));
            for from in 0..reads.len() {
                let mut sum = 0;
                for (at, count) in &reads[from..] {
                    sum += count;
                    let passed = at.duration_since(reads[from].0).as_nanos();
                    let share = u128::from(RATE.unsigned_abs()) * passed / SECOND;
                    prop_assert!(sum <= u128::from(BURST.unsigned_abs()) + share + 1, "{sum} bytes in {passed} ns");
                }
            }
        }
    }
}
