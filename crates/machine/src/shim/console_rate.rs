//! Limits how fast a guest's console is read: a token bucket of bytes, and a pause after each read.
//!
//! A guest writes to its console as fast as it is read, and every byte costs its host something. The output of a boot
//! is far below the limit; a guest that floods is slowed down, and affects only itself.

use std::time::Duration;
use tokio::time::Instant;

/// Bytes per read.
pub(super) const CHUNK: usize = 16 << 10;
/// Capacity of the bucket: bytes read at any speed. More than a noisy boot writes.
const BURST: i64 = 2 << 20;
/// Fill rate of the bucket, in bytes per second.
const RATE: i64 = 4 << 20;

/// Least time between two reads. A VMM writes byte by byte, and waking up for each costs more than everything else.
/// Meanwhile the bytes gather in the pipe, whose capacity is many times what a guest may write in this time.
const PAUSE: Duration = Duration::from_millis(2);

/// One second in nanoseconds.
const SECOND: u128 = 1_000_000_000;

/// The token bucket.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Tokens left, one per byte; negative after a read in advance.
    bytes: i64,
    filled: Instant,
    paused_until: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: BURST, filled: now, paused_until: now }
    }

    /// The time at which `count` bytes may be read: `now`, if there are enough tokens and the last read was long enough
    /// ago. `count` must be below the capacity.
    pub(super) fn ready_at(&mut self, count: usize, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let fresh = i64::try_from(passed * u128::from(RATE.unsigned_abs()) / SECOND).unwrap_or(i64::MAX);
        if fresh > 0 {
            self.bytes = self.bytes.saturating_add(fresh).min(BURST);
            // Fractions of a byte are lost: the rate may be too low by a byte now and then, but never too high.
            self.filled = now;
        }
        let missing = signed(count).saturating_sub(self.bytes).max(0);
        let earned = now + Duration::from_micros((missing * 1_000_000 / RATE).unsigned_abs() + u64::from(missing > 0));
        earned.max(self.paused_until)
    }

    /// Removes the tokens for bytes that have just been read.
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
        /// A reader that obeys never reads more in any interval than the capacity and the fill rate allow, and pauses
        /// after each read.
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
