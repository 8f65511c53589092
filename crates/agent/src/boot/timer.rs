//! Checks that the machine's timer works: without one the machine stops for good the first time it is idle. Also checks
//! that it is not late.
//!
//! A kernel measures the frequency of its processor's timer during boot. In software emulation the measurement is wrong
//! if the host takes the processor away at that moment. Either the kernel finds the timer too slow and disables it
//! ("APIC frequency too slow, disabling apic timer"), and QEMU's `microvm` with ACPI has no other one; or it takes the
//! timer for faster than it is, and a wait of one second lasts two, as long as the machine runs. The next boot measures
//! again.
//!
//! To judge this, the true frequency must be known: in QEMU's own emulation the timer counts nanoseconds
//! (`hw/intc/apic.c`). The host knows whether this is the case, and how often it has rebooted: without a further boot
//! there is no check. Nor is a timer checked that is set to a TSC deadline (`lapic-deadline`, under KVM), because it is
//! not measured. A timer that was taken for slower than it is fires early and is set again, which does no harm.

use super::phases::boottime_ms;
use std::fs;

/// Time for which a timer without any interrupt is watched: many periods of the slowest there is, of 10 ms.
const PROBE_MS: u64 = 100;

/// Whether this machine's timer interrupts its processor; also if that cannot be determined.
pub(super) fn is_there() -> bool {
    let end = boottime_ms() + PROBE_MS;
    while interrupts() == Some(0) {
        // A sleep might never end.
        if boottime_ms() >= end {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}

/// Counts of the emulated timer per nanosecond, as the kernel stores them (`mult` for a `shift` of 32): Linux lets it
/// count every sixteenth.
const EXACT: u64 = 1 << 28;
const SHIFT: u64 = 32;
/// Deviation that is an error, in percent; a busy host always causes less.
const TOLERANCE_PERCENT: u64 = 25;

/// Whether waits for this machine's timer, which counts nanoseconds, last far too long; not if that cannot be
/// determined.
pub(super) fn is_late() -> bool {
    fs::read_to_string("/proc/timer_list").is_ok_and(|list| is_late_in(&list))
}

/// Whether one of the local timers of all processors in `/proc/timer_list` is late.
fn is_late_in(list: &str) -> bool {
    let devices = list.split("Clock Event Device: ").skip(1);
    devices.filter(|device| device.lines().next().is_some_and(|name| name.trim() == "lapic")).any(|device| {
        let number = |name: &str| {
            let value = device.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
            value.trim().parse::<u64>().ok()
        };
        number("shift:") == Some(SHIFT)
            && number("mult:").is_some_and(|mult| mult > EXACT / 100 * (100 + TOLERANCE_PERCENT))
    })
}

/// Returns the number of timer interrupts so far.
fn interrupts() -> Option<u64> {
    counted(&fs::read_to_string("/proc/interrupts").ok()?)
}

/// Sums the local timer interrupts of all processors in `/proc/interrupts` (proc(5)).
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

    /// Text of the kernel about one processor's timer.
    fn device(name: &str, mult: u64, shift: u64) -> String {
        format!(
            "Tick Device: mode:     1\nPer CPU device: 0\nClock Event Device: {name}\n max_delta_ns:   2199023255551\n \
             min_delta_ns:   1000\n mult:           {mult}\n shift:          {shift}\n mode:           3\n \
             next_event:     1234000000 nsecs\n set_next_event: lapic_next_event\n event_handler:  hrtimer_interrupt\n\n"
        )
    }

    #[test]
    fn a_timer_is_late_that_is_taken_for_far_faster_than_it_is() {
        let head = "Timer List Version: v0.9\nHRTIMER_MAX_CLOCK_BASES: 8\nTick Device: mode:     1\nBroadcast device\n\
                    Clock Event Device: <NULL>\n\n";
        let late = |devices: &[String]| is_late_in(&format!("{head}{}", devices.concat()));
        let lapic = |percent: u64| device("lapic", EXACT / 100 * percent, SHIFT);
        assert!(late(&[lapic(126)]) && late(&[lapic(500)]));
        assert!(late(&[lapic(100), lapic(130)]), "one of two processors");
        for percent in [0, 30, 70, 100, 111, 125] {
            assert!(!late(&[lapic(percent)]), "{percent} %");
        }
        // Another device, another scale, or unreadable text.
        for other in ["lapic-deadline", "hpet", "pit", "<NULL>"] {
            assert!(!late(&[device(other, 5 * EXACT, SHIFT)]), "{other}");
        }
        assert!(!late(&[device("lapic", 5 * EXACT, 31)]));
        assert!(!late(&["Clock Event Device: lapic\n".into()]) && !late(&[]) && !is_late_in(""));
    }
}
