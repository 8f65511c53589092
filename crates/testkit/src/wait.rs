//! Waits for a condition instead of a fixed time.

use std::time::{Duration, Instant};

/// Interval between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(15);

/// Calls `probe` until it returns a value, and returns that value. A probe without a value returns what it saw instead.
///
/// Panics with `what` and the last observation once `deadline` has passed.
#[track_caller]
pub fn wait_until<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(evidence) if started.elapsed() > deadline => {
                panic!("waited {:.1} s for {what}; last seen: {evidence}", started.elapsed().as_secs_f32())
            }
            Err(_) => std::thread::sleep(PROBE_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_what_the_probe_found() {
        let mut left = 3;
        let found = wait_until(Duration::from_secs(5), "the third probe", || {
            left -= 1;
            if left == 0 { Ok("there") } else { Err(format!("{left} left")) }
        });
        assert_eq!(found, "there");
    }

    #[test]
    #[should_panic(expected = "for the impossible; last seen: nothing at all")]
    fn it_prints_the_evidence() {
        wait_until(Duration::ZERO, "the impossible", || Err::<(), _>("nothing at all".into()));
    }
}
