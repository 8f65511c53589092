//! `GET /stats`: figures about the machine from `/proc`.

use banger_proto::agent::http::Stats;
use std::{fs, io};

/// Milliseconds of one tick of `/proc/stat` (USER_HZ is 100 on every Linux).
const TICK_MS: u64 = 10;

/// Reads the figures; the server counts `sessions`.
pub(super) fn read(sessions: u32) -> io::Result<Stats> {
    let (stat, memory, load) =
        (fs::read_to_string("/proc/stat")?, fs::read_to_string("/proc/meminfo")?, fs::read_to_string("/proc/loadavg")?);
    let disk = rustix::fs::statvfs("/")?;
    Ok(Stats {
        cpu_ms: busy_ticks(&stat) * TICK_MS,
        memory_total: kilobytes(&memory, "MemTotal:") * 1024,
        memory_available: kilobytes(&memory, "MemAvailable:") * 1024,
        disk_total: disk.f_blocks.saturating_mul(disk.f_frsize),
        disk_free: disk.f_bavail.saturating_mul(disk.f_frsize),
        processes: running(&load),
        sessions,
    })
}

/// Sums user, nice, system, irq, softirq and steal; neither idle nor iowait, and guest time is in user already.
fn busy_ticks(stat: &str) -> u64 {
    let fields = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    [0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum()
}

fn kilobytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Returns the number of running processes: the fourth field of `/proc/loadavg` is `runnable/all`.
fn running(loadavg: &str) -> u32 {
    let field = loadavg.split_whitespace().nth(3).unwrap_or_default();
    field.split('/').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9\n"), 1 + 2 + 4 + 8 + 16 + 32);
        assert_eq!(kilobytes("MemTotal:   2048 kB\nMemAvailable:  7 kB\n", "MemAvailable:"), 7);
        assert_eq!(running("0.00 0.01 0.05 2/345 6789\n"), 345);
        let stats = read(3).unwrap();
        assert!(stats.memory_total > 0 && stats.sessions == 3);
    }
}
