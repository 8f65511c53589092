//! The frequency of the host's time-stamp counter (TSC).
//!
//! A guest in software emulation reads the host's TSC and must be told its frequency: on a busy host it cannot measure
//! it and hangs. The frequency is measured against `CLOCK_MONOTONIC_RAW`. Where CPUID states a frequency that agrees
//! with the measurement, the stated one is exact and wins. A stated frequency alone is not trusted: hypervisors pass on
//! leaves that describe another machine.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "reading the counter is an intrinsic"))]

/// Least time between the two readings of a measurement. The clock and the TSC are read some 50 ns apart, so the result
/// is exact to 10 parts per million.
#[cfg(target_arch = "x86_64")]
const SPAN: std::time::Duration = std::time::Duration::from_millis(15);

/// Largest accepted difference between stated and measured frequency, as a fraction of the latter: 1/500.
#[cfg(target_arch = "x86_64")]
const AGREEMENT: u64 = 500;

/// Returns the frequency in kHz. Takes 15 ms, so call it once per boot of the host. `None` where there is no such
/// counter.
#[cfg(target_arch = "x86_64")]
pub fn host_khz() -> Option<u32> {
    let measured = measure();
    let best =
        stated().into_iter().find(|stated| stated.abs_diff(measured) <= measured / AGREEMENT).unwrap_or(measured);
    u32::try_from(best).ok().filter(|khz| *khz > 0)
}

/// Returns the frequency in kHz. `None` where there is no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub fn host_khz() -> Option<u32> {
    None
}

#[cfg(target_arch = "x86_64")]
fn measure() -> u64 {
    let (first_ns, first_ticks) = reading();
    std::thread::sleep(SPAN);
    let (last_ns, last_ticks) = reading();
    let ticks = u128::from(last_ticks.wrapping_sub(first_ticks));
    let elapsed = u128::from(last_ns.saturating_sub(first_ns).max(1));
    u64::try_from(ticks * 1_000_000 / elapsed).unwrap_or(0)
}

/// Reads the clock (in nanoseconds) and the TSC at the same moment: of several attempts, the one least disturbed by
/// interrupts or by other processes.
#[cfg(target_arch = "x86_64")]
fn reading() -> (u64, u64) {
    const TRIES: usize = 32;
    let clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicRaw);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
    };
    let tries = std::iter::repeat_with(|| {
        // SAFETY: every x86-64 processor has RDTSC, and Linux allows it unless a process forbids it for itself.
        let before = unsafe { core::arch::x86_64::_rdtsc() };
        let now = clock();
        // SAFETY: as above.
        let after = unsafe { core::arch::x86_64::_rdtsc() };
        let width = after.wrapping_sub(before);
        (width, now, before.wrapping_add(width / 2))
    });
    let (_, now, ticks) = tries.take(TRIES).min_by_key(|(width, ..)| *width).unwrap_or_default();
    (now, ticks)
}

/// Frequencies in kHz stated by CPUID: leaf 0x15 (crystal clock times ratio) and a hypervisor's timing leaf
/// 0x4000_0010.
#[cfg(target_arch = "x86_64")]
fn stated() -> Vec<u64> {
    use core::arch::x86_64::__cpuid;
    let mut rates = Vec::new();
    if __cpuid(0).eax >= 0x15 {
        let ratio = __cpuid(0x15);
        let (denominator, numerator, crystal) = (u64::from(ratio.eax), u64::from(ratio.ebx), u64::from(ratio.ecx));
        if denominator != 0 && crystal != 0 {
            rates.push(crystal * numerator / denominator / 1000);
        }
    }
    let hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
    if hypervisor && __cpuid(0x4000_0000).eax >= 0x4000_0010 {
        rates.push(u64::from(__cpuid(0x4000_0010).eax));
    }
    rates
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (a, b) = (measure(), measure());
        assert!(a > 100_000, "{a} kHz is no time-stamp counter");
        assert!(a.abs_diff(b) <= a / 1000, "{a} kHz, then {b} kHz");
    }
}
