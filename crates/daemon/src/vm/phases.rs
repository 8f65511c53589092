//! Phases of a start: how long each part took.

use banger_proto::{agent::event::Ready, api::vm::Phase};
use std::time::Instant;

/// Largest number of phases that a guest may report.
const MAX_GUEST_PHASES: usize = 16;
/// Name of the phase that begins when the guest's clock does.
const GUEST_BEGINS: &str = "kernel";
/// Name of the phase between a command's request and its process.
const EXEC: &str = "exec";
/// Longest name of a guest's phase, in characters.
const MAX_NAME: usize = 32;

/// A running measurement. Each phase begins where the one before it ended. Work of one kind that is done at two times
/// is reported as one phase, at the place of the first.
#[derive(Debug)]
pub(super) struct PhaseClock {
    began: Instant,
    last_ms: u64,
    phases: Vec<Phase>,
}

impl PhaseClock {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        Self { began: Instant::now(), last_ms: 0, phases: Vec::new() }
    }

    /// Ends a phase now.
    pub(super) fn mark(&mut self, name: &str) {
        let now = self.now_ms();
        self.mark_at(name, now);
    }

    /// Returns the phases measured so far.
    pub(super) fn phases(&self) -> Vec<Phase> {
        self.phases.clone()
    }

    /// Ends the phases between the VMM's start and the agent's announcement, which was just received. The time before
    /// the guest's clock began belongs to the VMM; the rest is split as the guest reports it.
    pub(super) fn guest(&mut self, ready: &Ready) {
        let now = self.now_ms();
        self.guest_at(ready, now);
    }

    fn guest_at(&mut self, ready: &Ready, now: u64) {
        let guest_ms = ready.phases.last().map_or(0, |phase| phase.ended_ms);
        // A guest may report anything, so its phases are confined to the time between the VMM's start and now.
        let zero = now.saturating_sub(guest_ms).clamp(self.last_ms, now);
        self.mark_at("vmm", zero);
        for phase in ready.phases.iter().take(MAX_GUEST_PHASES) {
            let name: String = phase.name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
            self.mark_at(&name, zero.saturating_add(phase.ended_ms).clamp(self.last_ms, now));
        }
    }

    fn mark_at(&mut self, name: &str, now: u64) {
        let duration_ms = now - self.last_ms;
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.duration_ms += duration_ms,
            None => self.phases.push(Phase { name: name.to_owned(), started_ms: self.last_ms, duration_ms }),
        }
        self.last_ms = now;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Adds the start of the first command to the phases of its boot. Both times are in the guest's own time.
pub(super) fn add_exec(phases: &mut Vec<Phase>, asked_ms: u64, started_ms: u64) {
    let Some(zero) = phases.iter().find(|phase| phase.name == GUEST_BEGINS).map(|phase| phase.started_ms) else {
        return;
    };
    if phases.iter().all(|phase| phase.name != EXEC) {
        phases.push(Phase {
            name: EXEC.to_owned(),
            started_ms: zero.saturating_add(asked_ms),
            duration_ms: started_ms.saturating_sub(asked_ms),
        });
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

    fn spans(clock: &PhaseClock) -> Vec<(&str, u64, u64)> {
        clock.phases.iter().map(|phase| (phase.name.as_str(), phase.started_ms, phase.duration_ms)).collect()
    }

    #[test]
    fn host_and_guest_make_one_line() {
        let mut clock = PhaseClock::start();
        clock.mark_at("image", 2);
        clock.mark_at("shim", 10);
        clock.guest_at(&ready(&[("kernel", 700), ("mounts", 800), ("agent", 900)]), 1000);
        assert_eq!(
            spans(&clock),
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
    fn what_is_done_in_two_places_is_one_phase() {
        let mut clock = PhaseClock::start();
        for (name, now) in [("image", 2), ("disk", 10), ("image", 11), ("disk", 13), ("shim", 20)] {
            clock.mark_at(name, now);
        }
        assert_eq!(spans(&clock), [("image", 0, 3), ("disk", 2, 10), ("shim", 13, 7)]);
    }

    #[test]
    fn the_first_command_is_the_last_phase() {
        let mut clock = PhaseClock::start();
        clock.mark_at("shim", 10);
        clock.guest_at(&ready(&[("kernel", 700), ("agent", 900)]), 1000);
        let mut phases = clock.phases();
        add_exec(&mut phases, 950, 990);
        let exec = phases.last().unwrap();
        assert_eq!((exec.name.as_str(), exec.started_ms, exec.duration_ms), ("exec", 1050, 40));
        let count = phases.len();
        add_exec(&mut phases, 2000, 2001);
        assert_eq!(phases.len(), count, "there is one first command");
        let mut unknown = Vec::new();
        add_exec(&mut unknown, 1, u64::MAX);
        assert!(unknown.is_empty());
        add_exec(&mut clock.phases, u64::MAX, 0);
        assert_eq!(clock.phases.last().unwrap().duration_ms, 0);
    }

    #[test]
    fn a_lying_guest_spoils_its_own_part_only() {
        let mut clock = PhaseClock::start();
        clock.mark_at("shim", 10);
        clock.guest_at(&ready(&[("kernel", u64::MAX), ("x\u{1b}", 5), ("agent", 50)]), 1000);
        let spans = spans(&clock);
        assert_eq!((spans[0], spans[1]), (("shim", 0, 10), ("vmm", 10, 940)));
        assert!(spans.iter().all(|(_, started, took)| started + took <= 1000), "{spans:?}");
        assert!(spans.iter().any(|(name, ..)| *name == "x"), "{spans:?}");
    }
}
