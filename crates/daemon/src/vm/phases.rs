//! Where the time of a start goes.

use banger_proto::{agent::event::Ready, api::vm::Phase};
use std::time::Instant;

/// Most phases a guest may report.
const MAX_GUEST_PHASES: usize = 16;
/// Longest name of a guest's phase.
const MAX_NAME: usize = 32;

/// A running measurement; each phase begins where the one before it ended.
#[derive(Debug)]
pub(super) struct PhaseClock {
    began: Instant,
    last_ms: u64,
    phases: Vec<Phase>,
}

impl PhaseClock {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self { began: Instant::now(), last_ms: 0, phases: Vec::new() }
    }

    /// Ends a phase now. One that ends twice in a row was one.
    pub(super) fn mark(&mut self, name: &str) {
        let now = self.now_ms();
        self.mark_at(name, now);
    }

    /// What was measured until here.
    pub(super) fn phases(&self) -> Vec<Phase> {
        self.phases.clone()
    }

    /// Ends the phases between the VMM's start and the agent's announcement, which was just received: what passed
    /// before the guest's own clock began is the VMM's, the rest is split as the guest says.
    pub(super) fn guest(&mut self, ready: &Ready) {
        let now = self.now_ms();
        self.guest_at(ready, now);
    }

    fn guest_at(&mut self, ready: &Ready, now: u64) {
        let guest_ms = ready.phases.last().map_or(0, |phase| phase.ended_ms);
        // A guest may say anything; nothing began before the VMM did or ended after now.
        let zero = now.saturating_sub(guest_ms).clamp(self.last_ms, now);
        self.mark_at("vmm", zero);
        for phase in ready.phases.iter().take(MAX_GUEST_PHASES) {
            let name: String = phase.name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
            self.mark_at(&name, zero.saturating_add(phase.ended_ms).clamp(self.last_ms, now));
        }
    }

    fn mark_at(&mut self, name: &str, now: u64) {
        match self.phases.last_mut() {
            Some(last) if last.name == name => last.duration_ms = now - last.started_ms,
            _ => self.phases.push(Phase {
                name: name.to_owned(),
                started_ms: self.last_ms,
                duration_ms: now - self.last_ms,
            }),
        }
        self.last_ms = now;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::agent::{boot::Init, event::GuestPhase};

    fn ready(phases: &[(&str, u64)]) -> Ready {
        Ready {
            agent_version: String::new(),
            api_version: 1,
            boot_id: String::new(),
            kernel_release: String::new(),
            init: Init::Agent,
            phases: phases
                .iter()
                .map(|(name, ended_ms)| GuestPhase { name: (*name).to_owned(), ended_ms: *ended_ms })
                .collect(),
        }
    }

    fn told(clock: &PhaseClock) -> Vec<(&str, u64, u64)> {
        clock.phases.iter().map(|phase| (phase.name.as_str(), phase.started_ms, phase.duration_ms)).collect()
    }

    #[test]
    fn host_and_guest_make_one_line() {
        let mut clock = PhaseClock::start();
        clock.mark_at("image", 2);
        clock.mark_at("shim", 10);
        clock.guest_at(&ready(&[("kernel", 700), ("mounts", 800), ("agent", 900)]), 1000);
        assert_eq!(
            told(&clock),
            [
                ("image", 0, 2),
                ("shim", 2, 8),
                ("vmm", 10, 90),
                ("kernel", 100, 700),
                ("mounts", 800, 100),
                ("agent", 900, 100)
            ]
        );
    }

    #[test]
    fn a_lying_guest_spoils_its_own_part_only() {
        let mut clock = PhaseClock::start();
        clock.mark_at("shim", 10);
        clock.guest_at(&ready(&[("kernel", u64::MAX), ("x\u{1b}", 5), ("agent", 50)]), 1000);
        let told = told(&clock);
        assert_eq!((told[0], told[1]), (("shim", 0, 10), ("vmm", 10, 940)));
        assert!(told.iter().all(|(_, started, took)| started + took <= 1000), "{told:?}");
        assert!(told.iter().any(|(name, ..)| *name == "x"), "{told:?}");
    }
}
