//! Whether there is a timer: without one this machine stands still, for good, the first time it has nothing to do. And
//! whether it comes when it should.
//!
//! A kernel measures how fast its processor's timer runs while it boots. In software emulation it measures nonsense where
//! the host takes the processor away at that very moment. Either it finds the timer too slow and goes without it ("APIC
//! frequency too slow, disabling apic timer"); QEMU's `microvm` with ACPI has no other one. Or it takes it for faster than it
//! is, and whatever waits there for a second waits for two, as long as the machine runs. The next boot measures anew.
//!
//! How fast it is has to be known to judge that: in QEMU's own emulation it counts nanoseconds (`hw/intc/apic.c`). The host
//! knows that it is that, and how often it has tried: what it grants no further boot for is not judged. Nor is a timer that is
//! set to a moment of the TSC (`lapic-deadline`, under KVM): it is not measured. One that was taken for slower than it is
//! comes early and is set again, which is no harm.

use super::phases::boottime_ms;
use std::fs;

/// How long a timer that has never been heard of may take: many periods of the slowest there is, of 10 ms.
const PROBE_MS: u64 = 100;

/// Whether this machine's timer interrupts its processor. Where that cannot be told, it does.
pub(super) fn is_there() -> bool {
    let end = boottime_ms() + PROBE_MS;
    while interrupts() == Some(0) {
        // Not a pause, which might never end.
        if boottime_ms() >= end {
            return false;
        }
        std::hint::spin_loop();
    }
    true
}

/// Counts of that timer in a nanosecond, as a kernel writes them down (`mult` for a `shift` of 32): Linux has it count every
/// sixteenth.
const EXACT: u64 = 1 << 28;
const SHIFT: u64 = 32;
/// How much more is wrong, in percent: what a busy host does at any time is less.
const TOLERANCE_PERCENT: u64 = 25;

/// Whether what waits for this machine's timer, which counts nanoseconds, waits far too long. Where that cannot be told, it
/// does not.
pub(super) fn is_late() -> bool {
    fs::read_to_string("/proc/timer_list").is_ok_and(|list| is_late_in(&list))
}

/// The same of the local timers, of all processors, in what `/proc/timer_list` says.
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

    /// What a kernel says of one processor's timer.
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
        // Another device, another scale, or nothing that can be read.
        for other in ["lapic-deadline", "hpet", "pit", "<NULL>"] {
            assert!(!late(&[device(other, 5 * EXACT, SHIFT)]), "{other}");
        }
        assert!(!late(&[device("lapic", 5 * EXACT, 31)]));
        assert!(!late(&["Clock Event Device: lapic\n".into()]) && !late(&[]) && !is_late_in(""));
    }
}
