//! What is legal when: a pure function of a VM's state, the step in progress, and what is asked.
//!
//! ```text
//!           idle, down  idle, live   start, restart  stop         kill    set   delete
//!  start    run         nothing      refuse          refuse       refuse  wait  refuse
//!  restart  run         run          refuse          refuse       refuse  wait  refuse
//!  stop     nothing     run          cancel, run     wait         wait    wait  refuse
//!  kill     refuse      run          cancel, run     cancel, run  wait    wait  refuse
//!  set      run         run          wait            wait         wait    wait  refuse
//!  delete   run         needs force  cancel, run     cancel, run  wait    wait  wait
//! ```
//! The columns are the step in progress; a delete of what is live needs force whatever is in progress, but another delete:
//! what goes already is nobody's to lose. "Down" is created, stopped or failed. A step that is cancelled ends in order and
//! soon; what waited for it is then decided anew, in the state it left. A start whose agent answered leaves a machine that can be asked to power off, so that a stop of it is an
//! orderly one; it goes on if nothing that takes the VM down comes after it, and until then another start is refused as
//! during the step.
//!
//! A stop because nobody uses the VM is nobody's wish. It comes in the way of nothing: it is refused while anything else is
//! in progress or a start was left half way; and who asks for a start while it is carried out gets one afterwards.
//!
//! A start ends when the VM runs. Who waits for its services then (`--wait boot`) waits beside all of this: sizes, ports
//! and policies can be changed, another start is nothing to do, and what takes the VM down ends the wait.

use banger_proto::api::vm::{KillSignal, SetVm, VmState, Wait};
use std::time::Duration;

/// Why a VM is down that nobody used.
const UNUSED: &str = "nobody used it for as long as auto_stop_after says";

/// What can be asked of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Make it run, and wait until it does.
    Start {
        /// When to answer: the step itself ends when the VM runs.
        wait: Wait,
        /// Whether it may also when that much memory is not free: kept with the VM once its machine is started. No step of its
        /// own: it is asked for with a start that may be refused, and is refused with it.
        overcommit: bool,
    },
    /// Orderly power-off, at most this long; then the VMM is killed.
    Stop {
        /// Absent: what its init is used to.
        grace: Option<Duration>,
        /// Who wants it.
        cause: StopCause,
    },
    /// Stop and start: a fresh kernel.
    Restart {
        /// As for stop.
        grace: Option<Duration>,
        /// As for start.
        overcommit: bool,
    },
    /// A signal for the VMM.
    Kill {
        /// Which.
        signal: KillSignal,
    },
    /// Other sizes, from the next start on.
    Set(SetVm),
    /// Everything goes.
    Delete {
        /// Also when it runs.
        force: bool,
    },
}

impl Op {
    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Kill { .. } => "kill",
            Self::Set(_) => "set",
            Self::Delete { .. } => "delete",
        }
    }
}

/// Why a VM is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// Somebody asked for it.
    Asked,
    /// Nobody used it for as long as the configuration says.
    Unused,
}

impl StopCause {
    /// What there is to say of a VM that was stopped for it, whose machine ended like this.
    pub(super) fn said(self, how: Option<String>) -> Option<String> {
        match (self, how) {
            (Self::Asked, how) => how,
            (Self::Unused, None) => Some(UNUSED.to_owned()),
            (Self::Unused, Some(how)) => Some(format!("{UNUSED}; {how}")),
        }
    }
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Run it now.
    Run,
    /// It is so already: success.
    Nothing,
    /// Cancel the step in progress; decide again when it has ended.
    Cancel,
    /// Decide again when the step in progress has ended.
    Wait,
    /// No, for this reason.
    Refuse(Reason),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// It is being deleted.
    Deleting,
    /// It does not run.
    NotRunning,
    /// It runs, and that was not forced.
    Running,
    /// It is on its way up, or about to be, and that was not forced.
    ComingUp,
    /// It is on its way down, and that was not forced.
    GoingDown,
    /// Somebody wants something of it.
    InUse,
}

/// Decides about `asked`, given the state and the step in progress.
pub(crate) fn decide(state: VmState, busy: Option<&Op>, asked: &Op) -> Verdict {
    use Verdict::{Nothing, Refuse, Run};
    match (busy, asked) {
        (Some(_), Op::Stop { cause: StopCause::Unused, .. }) => Refuse(Reason::InUse),
        (None, Op::Stop { cause: StopCause::Unused, .. }) if state == VmState::Starting => Refuse(Reason::InUse),
        // A start that was left half way goes on when nothing else is to be done, and may fail then.
        (None, Op::Start { .. }) if state == VmState::Starting => Refuse(Reason::Starting),
        (None, Op::Start { .. }) if state.is_live() => Nothing,
        (None, Op::Stop { .. }) if !state.is_live() => Nothing,
        (None, Op::Kill { .. }) if !state.is_live() => Refuse(Reason::NotRunning),
        (Some(Op::Delete { .. }), Op::Delete { .. }) => Verdict::Wait,
        (Some(Op::Stop { .. } | Op::Kill { .. }), Op::Delete { force: false }) if state.is_live() => {
            Refuse(Reason::GoingDown)
        }
        (_, Op::Delete { force: false }) if state == VmState::Starting => Refuse(Reason::ComingUp),
        // Also while it comes and goes: force is about what is lost, and a VMM is what would be.
        (_, Op::Delete { force: false }) if state.is_live() => Refuse(Reason::Running),
        // The row says "stopped" until the second half of a restart has looked at the host, which may take a download.
        (Some(Op::Start { .. } | Op::Restart { .. }), Op::Delete { force: false }) => Refuse(Reason::ComingUp),
        (None, _) => Run,
        (Some(busy), asked) => decide_meanwhile(busy, asked),
    }
}

/// The step in progress is `busy`.
fn decide_meanwhile(busy: &Op, asked: &Op) -> Verdict {
    match (busy, asked) {
        (Op::Delete { .. }, _) => Verdict::Refuse(Reason::Deleting),
        // A set changes a wish, not a machine: the step in progress goes by the wish it began with, and a set itself
        // takes a moment.
        (_, Op::Set(_))
        | (Op::Set(_), _)
        | (Op::Stop { cause: StopCause::Unused, .. }, Op::Start { .. } | Op::Restart { .. }) => Verdict::Wait,
        (Op::Start { .. } | Op::Restart { .. }, Op::Start { .. } | Op::Restart { .. }) => {
            Verdict::Refuse(Reason::Starting)
        }
        (Op::Stop { .. } | Op::Kill { .. }, Op::Start { .. } | Op::Restart { .. }) => Verdict::Refuse(Reason::Stopping),
        (Op::Start { .. } | Op::Restart { .. }, _) | (Op::Stop { .. }, Op::Kill { .. } | Op::Delete { .. }) => {
            Verdict::Cancel
        }
        (Op::Stop { .. } | Op::Kill { .. }, _) => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests;
