//! Decides what follows when a VMM has ended: a fresh one, or the end of the machine, with the cause. A pure function
//! of the evidence.
//!
//! The exit status of a VMM is not enough: with `-no-reboot` a reset, a panic and a power-off all end QEMU with status
//! 0. Evaluated in this order: the daemon's request, the signal that killed the process, the last power event of the
//! agent, the reason that QEMU reports, the console.
//!
//! | requested | status | power event | QEMU reports | console, boot | verdict |
//! |---|---|---|---|---|---|
//! | end | any | any | any | any | `Ended` |
//! | host shutdown | 0 | power-off | any | any | `Poweroff` |
//! | host shutdown | any | any | any | any | `Ended` |
//! | a signal | died of it, or shut down for it | – | – | – | `Killed` |
//! | – | a signal, or not 0 | any | any | any | `VmmFailed` |
//! | – | 0 | power-off | any | any | `Poweroff` |
//! | – | 0 | reboot | any | this or the last boot was ready | relaunch |
//! | – | 0 | reboot | any | neither was | `GuestFailed` |
//! | – | 0 | – | guest off | any | `Poweroff` |
//! | – | 0 | – | guest reset | no panic, ready, image's init | relaunch |
//! | – | 0 | – | guest reset | not ready, for it has no timer or a late one, not too often | relaunch |
//! | – | 0 | – | guest reset, panic | any | `GuestFailed` |
//! | – | 0 | – | host, nothing | any | `VmmFailed` |

use super::control::ExitCause;
use crate::vmm::{MachineEnd, ShutdownReason};
use banger_artifacts::program::escaped;
use banger_proto::{
    agent::{boot::Init, event::Power},
    api::vm::{Accelerator, Vmm},
};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;

/// Number of consecutive boots that may find no timer, or a late one. At worst one in thirty finds none; if all do,
/// something else is wrong.
pub(super) const MAX_BAD_TIMERS: u32 = 5;
/// Number of consecutive boots that are given up for a late timer: on a host that is never less busy, a guest with a
/// late one is better than none.
const MAX_LATE_TIMERS: u32 = 2;

/// How many more boots may be given up for a late timer, after this many with a bad one. Only QEMU's software emulation
/// is known to confuse a kernel about its timer: with KVM the timer is the processor's, or the host kernel's.
pub(super) fn timer_tries(vmm: Vmm, accelerator: Accelerator, bad_timers: u32) -> u32 {
    match (vmm, accelerator) {
        (Vmm::Qemu, Accelerator::Tcg) => MAX_LATE_TIMERS.saturating_sub(bad_timers),
        _ => 0,
    }
}

/// What the shim was asked to do while the VMM ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requested {
    /// Nothing.
    Nothing,
    /// Send the VMM these signals.
    Signals(SignalSet),
    /// End the machine.
    End,
    /// End the machine, by a signal to the shim itself: the host shuts down.
    HostShutdown,
}

/// A set of signals, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SignalSet(u64);

impl SignalSet {
    /// Adds a signal.
    #[must_use]
    pub(super) fn and(self, signal: Signal) -> Self {
        Self(self.0 | 1 << signal.as_raw())
    }

    fn contains(self, number: i32) -> bool {
        (0..64).contains(&number) && self.0 & 1 << number != 0
    }
}

/// Everything known when a VMM has ended.
#[derive(Debug, Clone)]
pub(super) struct Evidence<'a> {
    pub(super) requested: Requested,
    pub(super) end: &'a MachineEnd,
    /// The last power event of this boot.
    pub(super) power: Option<Power>,
    /// Whether the shim ended the VMM, because the guest did not go down after its power event.
    pub(super) overdue: bool,
    /// The console's line about a kernel panic, escaped.
    pub(super) panic: Option<&'a str>,
    /// Number of consecutive boots with no timer or a late one, up to and including this one.
    pub(super) bad_timers: u32,
    /// The init system, if the agent was ready in this boot.
    pub(super) ready: Option<Init>,
    /// Whether the agent was ready in the previous boot, or there was none.
    pub(super) was_ready: bool,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start a fresh VMM.
    Relaunch,
    /// The machine has ended.
    End(ExitCause, String),
}

/// Decides what follows.
pub(super) fn decide(evidence: &Evidence<'_>) -> Verdict {
    use ExitCause::{Ended, GuestFailed, Killed, Poweroff, VmmFailed};
    let end = |cause, reason: String| Verdict::End(cause, reason);
    let Evidence { requested, end: machine, power, panic, bad_timers, ready, was_ready, overdue } = evidence;
    let signal = machine.status.signal();
    match requested {
        Requested::End => return end(Ended, "ended by the daemon".into()),
        Requested::HostShutdown if *power == Some(Power::Poweroff) && machine.status.success() => {
            return end(Poweroff, "the guest powered off, as the host wanted it".into());
        }
        Requested::HostShutdown => return end(Ended, "the shim was told to end, as when the host shuts down".into()),
        Requested::Signals(requested) => match signal {
            Some(signal) if requested.contains(signal) => {
                return end(Killed, format!("the VMM was sent signal {signal} and died of it"));
            }
            None if machine.reported == Some(ShutdownReason::Host) => {
                return end(Killed, "the VMM was sent a signal and ended".into());
            }
            _ => {}
        },
        Requested::Nothing => {}
    }
    let status_0 = machine.status.success() || *overdue;
    if !status_0 {
        return end(VmmFailed, with_stderr(format!("the VMM ended by itself: {}", machine.status), machine));
    }
    match (power, machine.reported) {
        (Some(Power::Poweroff), _) | (None, Some(ShutdownReason::GuestOff)) => {
            end(Poweroff, "the guest powered off".into())
        }
        (Some(Power::Reboot), _) if ready.is_some() || *was_ready => Verdict::Relaunch,
        (Some(Power::Reboot), _) => {
            end(GuestFailed, "the guest rebooted twice in a row before its agent was ready".into())
        }
        (None, Some(ShutdownReason::GuestReset)) if *ready == Some(Init::Image) && panic.is_none() => Verdict::Relaunch,
        (None, Some(ShutdownReason::GuestReset)) if *bad_timers > 0 && ready.is_none() && panic.is_none() => {
            if *bad_timers <= MAX_BAD_TIMERS {
                return Verdict::Relaunch;
            }
            end(GuestFailed, format!("the guest's kernel found no timer, {bad_timers} times in a row"))
        }
        (None, Some(ShutdownReason::GuestReset | ShutdownReason::GuestPanic)) => {
            let what = match panic {
                Some(line) => format!("the guest's kernel panicked: {line}"),
                None => "the guest reset without a word".to_owned(),
            };
            let when = if ready.is_some() { "" } else { ", before its agent was ready" };
            end(GuestFailed, format!("{what}{when}"))
        }
        (None, Some(ShutdownReason::Host)) => end(VmmFailed, "the VMM was told to end, and not by banger".into()),
        (None, None) => end(VmmFailed, with_stderr("the VMM ended without a reason".into(), machine)),
    }
}

fn with_stderr(reason: String, machine: &MachineEnd) -> String {
    if machine.stderr.is_empty() {
        reason
    } else {
        format!("{reason}; it said: {}", escaped(machine.stderr.as_bytes()))
    }
}

/// Updates the number of consecutive boots with no timer or a late one. Such a boot resets without a power event: a
/// guest that sends one is up.
pub(super) fn bad_timers(before: u32, says_so: bool, power: Option<Power>) -> u32 {
    if says_so && power.is_none() { before + 1 } else { 0 }
}

/// Updates whether the previous boot was satisfactory. A boot that was given up for its timer does not count, because
/// it could not become ready.
pub(super) fn was_ready(before: bool, ready: Option<Init>, bad_timers: u32) -> bool {
    ready.is_some() || bad_timers > 0 && before
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    fn exited(code: i32, reported: Option<ShutdownReason>) -> MachineEnd {
        MachineEnd { status: ExitStatus::from_raw(code << 8), reported, stderr: String::new() }
    }

    fn signalled(signal: i32) -> MachineEnd {
        MachineEnd { status: ExitStatus::from_raw(signal), reported: None, stderr: "qemu: oops\u{1b}[31m".into() }
    }

    fn evidence(end: &MachineEnd) -> Evidence<'_> {
        Evidence {
            requested: Requested::Nothing,
            end,
            power: None,
            overdue: false,
            panic: None,
            bad_timers: 0,
            ready: None,
            was_ready: true,
        }
    }

    #[track_caller]
    fn ends(evidence: &Evidence<'_>, cause: ExitCause, expected: &str) {
        match decide(evidence) {
            Verdict::End(found, reason) => {
                assert_eq!(found, cause, "{reason}");
                assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
            }
            Verdict::Relaunch => panic!("relaunch where {cause:?} was expected: {evidence:?}"),
        }
    }

    #[test]
    fn what_was_asked_for_comes_first() {
        let reset = exited(0, Some(ShutdownReason::GuestReset));
        let killed = signalled(9);
        for end in [&reset, &killed] {
            ends(
                &Evidence { requested: Requested::End, power: Some(Power::Reboot), ..evidence(end) },
                ExitCause::Ended,
                "daemon",
            );
            ends(&Evidence { requested: Requested::HostShutdown, ..evidence(end) }, ExitCause::Ended, "host");
        }
        for (power, end, cause) in [
            (Power::Poweroff, &reset, ExitCause::Poweroff),
            (Power::Poweroff, &killed, ExitCause::Ended),
            (Power::Reboot, &reset, ExitCause::Ended),
        ] {
            ends(&Evidence { requested: Requested::HostShutdown, power: Some(power), ..evidence(end) }, cause, "host");
        }
    }

    #[test]
    fn a_signal_kills_only_when_the_vmm_dies_of_it() {
        let requested = |signal| Requested::Signals(SignalSet::default().and(signal));
        let term = requested(Signal::TERM);
        ends(
            &Evidence { requested: requested(Signal::KILL), ..evidence(&signalled(9)) },
            ExitCause::Killed,
            "signal 9",
        );
        ends(
            &Evidence { requested: term, ..evidence(&exited(0, Some(ShutdownReason::Host))) },
            ExitCause::Killed,
            "signal",
        );
        ends(&Evidence { requested: term, ..evidence(&signalled(11)) }, ExitCause::VmmFailed, "signal: 11");
        let off = exited(0, Some(ShutdownReason::GuestOff));
        ends(&Evidence { requested: requested(Signal::USR1), ..evidence(&off) }, ExitCause::Poweroff, "powered off");
    }

    #[test]
    fn a_vmm_that_dies_by_itself_failed_whatever_the_guest_said() {
        ends(
            &Evidence { power: Some(Power::Poweroff), ..evidence(&signalled(9)) },
            ExitCause::VmmFailed,
            "oops\\u{1b}",
        );
        ends(&evidence(&exited(1, None)), ExitCause::VmmFailed, "exit status: 1");
        ends(&evidence(&exited(0, Some(ShutdownReason::Host))), ExitCause::VmmFailed, "not by banger");
        ends(&evidence(&exited(0, None)), ExitCause::VmmFailed, "without a reason");
    }

    #[test]
    fn the_agents_word_decides() {
        for reported in [Some(ShutdownReason::GuestReset), Some(ShutdownReason::GuestOff), None] {
            let end = exited(0, reported);
            ends(&Evidence { power: Some(Power::Poweroff), ..evidence(&end) }, ExitCause::Poweroff, "powered off");
            let reboot = Evidence { power: Some(Power::Reboot), ready: Some(Init::Agent), ..evidence(&end) };
            assert_eq!(decide(&reboot), Verdict::Relaunch);
        }
        let killed = signalled(9);
        let overdue = Evidence { power: Some(Power::Poweroff), overdue: true, ..evidence(&killed) };
        ends(&overdue, ExitCause::Poweroff, "powered off");
    }

    #[test]
    fn a_guest_that_reboots_before_it_is_ready_may_do_so_once() {
        let end = exited(0, Some(ShutdownReason::GuestReset));
        let once = Evidence { power: Some(Power::Reboot), was_ready: true, ..evidence(&end) };
        assert_eq!(decide(&once), Verdict::Relaunch);
        ends(&Evidence { was_ready: false, ..once }, ExitCause::GuestFailed, "twice in a row");
    }

    #[test]
    fn a_guest_without_a_timer_boots_again_a_few_times() {
        let reset = exited(0, Some(ShutdownReason::GuestReset));
        for bad_timers in 1..=MAX_BAD_TIMERS {
            let found = Evidence { bad_timers, was_ready: bad_timers % 2 == 0, ..evidence(&reset) };
            assert_eq!(decide(&found), Verdict::Relaunch);
            // Regardless of the timer message: a guest that was ready had a timer, and one that panicked has failed.
            ends(&Evidence { ready: Some(Init::Agent), ..found.clone() }, ExitCause::GuestFailed, "without a word");
            ends(&Evidence { panic: Some("oops"), ..found.clone() }, ExitCause::GuestFailed, "oops");
            ends(&Evidence { requested: Requested::End, ..found }, ExitCause::Ended, "daemon");
        }
        let too_often = Evidence { bad_timers: MAX_BAD_TIMERS + 1, ..evidence(&reset) };
        ends(&too_often, ExitCause::GuestFailed, "no timer, 6 times in a row");
        let off = exited(0, Some(ShutdownReason::GuestOff));
        ends(&Evidence { bad_timers: 1, ..evidence(&off) }, ExitCause::Poweroff, "");
    }

    #[test]
    fn a_late_timer_is_judged_twice_and_only_where_it_is_qemus() {
        let tries = |bad| timer_tries(Vmm::Qemu, Accelerator::Tcg, bad);
        assert_eq!([0, 1, 2, 3, 9].map(tries), [2, 1, 0, 0, 0]);
        assert_eq!(timer_tries(Vmm::Qemu, Accelerator::Kvm, 0), 0);
        assert_eq!(timer_tries(Vmm::Firecracker, Accelerator::Kvm, 0), 0);
    }

    #[test]
    fn a_guest_that_reboots_has_a_timer_whatever_its_console_shows() {
        let reset = exited(0, Some(ShutdownReason::GuestReset));
        let (mut before, mut was) = (0, true);
        let mut boot = |power| {
            before = bad_timers(before, true, power);
            let verdict = decide(&Evidence { power, bad_timers: before, was_ready: was, ..evidence(&reset) });
            was = was_ready(was, None, before);
            verdict
        };
        // Boots without a timer come between two others.
        for power in [None, None, Some(Power::Reboot), None] {
            assert_eq!(boot(power), Verdict::Relaunch, "{power:?}");
        }
        let Verdict::End(ExitCause::GuestFailed, reason) = boot(Some(Power::Reboot)) else { panic!("for ever") };
        assert!(reason.contains("twice in a row"), "{reason}");
    }

    #[test]
    fn without_a_word_a_reset_is_a_reboot_only_under_the_images_init() {
        let reset = exited(0, Some(ShutdownReason::GuestReset));
        let ready = |init| Evidence { ready: Some(init), ..evidence(&reset) };
        assert_eq!(decide(&ready(Init::Image)), Verdict::Relaunch);
        ends(&ready(Init::Agent), ExitCause::GuestFailed, "without a word");
        ends(&evidence(&reset), ExitCause::GuestFailed, "before its agent was ready");
        let panic = Some("Kernel panic - not syncing: oops");
        ends(&Evidence { panic, ..ready(Init::Image) }, ExitCause::GuestFailed, "not syncing: oops");
        ends(&evidence(&exited(0, Some(ShutdownReason::GuestPanic))), ExitCause::GuestFailed, "");
        ends(&evidence(&exited(0, Some(ShutdownReason::GuestOff))), ExitCause::Poweroff, "");
    }
}
