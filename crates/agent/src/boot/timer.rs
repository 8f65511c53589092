//! Whether there is a timer: without one this machine stands still, for good, the first time it has nothing to do.
//!
//! A kernel measures how fast its processor's timer runs while it boots. In software emulation it measures nonsense where
//! the host takes the processor away at that very moment, finds the timer too slow and goes without it ("APIC frequency too
//! slow, disabling apic timer"). QEMU's `microvm` with ACPI has no other one. The next boot measures anew.

use super::phases::boottime_ms;
use std::fs;

/// How long a timer that has never been heard of may take: many periods of the slowest there is, of 10 ms.
const PATIENCE_MS: u64 = 100;

/// Whether this machine's timer interrupts its processor. Where that cannot be told, it does.
pub(super) fn is_there() -> bool {
    let end = boottime_ms() + PATIENCE_MS;
    while interrupts() == Some(0) {
        // Not a pause, which might never end.
        if boottime_ms() >= end {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}

/// How often it has done so.
fn interrupts() -> Option<u64> {
    counted(&fs::read_to_string("/proc/interrupts").ok()?)
}

/// The interrupts of local timers, of all processors, in what `/proc/interrupts` says (proc(5)).
fn counted(interrupts: &str) -> Option<u64> {
    let line = interrupts.lines().find_map(|line| line.trim_start().strip_prefix("LOC:"))?;
    Some(line.split_whitespace().map_while(|word| word.parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_timers_are_counted_on_all_processors() {
        let table = |counts: &str| {
            format!(
                "           CPU0       CPU1\n  4:        227          0   IO-APIC   4-edge      ttyS0\nNMI:          0          0   Non-maskable interrupts\nLOC: {counts}   Local timer interrupts\nSPU: 9 9   Spurious interrupts\n"
            )
        };
        assert_eq!(counted(&table("         12          3")), Some(15));
        assert_eq!(counted(&table("          0          0")), Some(0));
        assert_eq!(counted("           CPU0\n 11:  5  GICv3  27 Level  arch_timer\n"), None);
        assert_eq!(counted(""), None);
    }
}
