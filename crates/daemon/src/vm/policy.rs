//! Policy: which command is legal when, as a pure function of a VM's state, the step in progress and the command.
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
//! The columns are the step in progress. "Down" is created, stopped or failed. Where a machine that was taken down left
//! processes behind, which did not end when they were killed, a stop and a kill try again before they come here.
//!
//!
//! Deleting a live VM needs force whatever is in progress, unless another delete is: then the VM is lost already.
//!
//!
//! A cancelled step ends in order and soon. Commands that waited for it are then decided again, in the state that it
//! left.
//!
//!
//! A cancelled start whose agent has answered leaves its machine, which can be asked to power off; so a stop that
//! follows is an orderly one. The start goes on if nothing takes the VM down, and until then another start is refused
//! as during the step.
//!
//!
//! A stop of an unused VM is on behalf of no user, so it never gets in a user's way: it is refused while anything else
//! is in progress or a start is unfinished, and a start that is requested meanwhile is carried out afterwards.
//!
//!
//! A start ends when the VM runs. A client that waits for its services (`--wait boot`) does so outside of any step:
//! sizes, ports and policies can be changed, another start has nothing to do, and whatever takes the VM down ends the
//! wait.

use banger_proto::api::vm::{KillSignal, SetVm, VmState, Wait};
use std::time::Duration;

/// Reason of a VM that was stopped because it was unused.
const UNUSED: &str = "nobody used it for as long as auto_stop_after says";

/// Operation on a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Starts the VM and waits until it runs.
    Start {
        /// Event to wait for before the answer. The step itself ends when the VM runs.
        wait: Wait,
        /// Whether the VM may start when too little memory is free. Kept in the row once the machine is started; an
        /// option of the start and not an operation of its own, so that it is refused together with the start.
        overcommit: bool,
    },
    /// Powers the VM off in order, within `grace`; then its VMM is killed.
    Stop {
        /// Absent: the default for the guest's init.
        grace: Option<Duration>,
        /// Reason for the stop.
        cause: StopCause,
    },
    /// Stops and starts the VM, which gives it a fresh kernel.
    Restart {
        /// As for stop.
        grace: Option<Duration>,
        /// As for start.
        overcommit: bool,
    },
    /// Sends a signal to the VMM.
    Kill {
        /// The signal to send.
        signal: KillSignal,
    },
    /// Changes sizes, from the next start on, and the network, at once.
    Set(SetVm),
    /// Deletes the VM with all that belongs to it.
    Delete {
        /// Whether a running VM is deleted too.
        force: bool,
    },
}

impl Op {
    /// Returns the name of the operation.
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

/// Reason for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// A user requested it.
    Asked,
    /// The VM was unused for as long as the configuration allows.
    Unused,
}

impl StopCause {
    /// Returns the reason to record for a VM that was stopped, given what there is to say about its machine's end.
    pub(super) fn said(self, how: Option<String>) -> Option<String> {
        match (self, how) {
            (Self::Asked, how) => how,
            (Self::Unused, None) => Some(UNUSED.to_owned()),
            (Self::Unused, Some(how)) => Some(format!("{UNUSED}; {how}")),
        }
    }
}

/// Decision about an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Run it now.
    Run,
    /// Nothing to do: success.
    Nothing,
    /// Cancel the step in progress; decide again when it has ended.
    Cancel,
    /// Decide again when the step in progress has ended.
    Wait,
    /// Refuse it.
    Refuse(Reason),
}

/// Reason for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The VM is being started.
    Starting,
    /// The VM is being stopped.
    Stopping,
    /// The VM is being deleted.
    Deleting,
    /// The VM does not run.
    NotRunning,
    /// The VM runs, and a delete was not forced.
    Running,
    /// The VM is being started or about to be, and a delete was not forced.
    ComingUp,
    /// The VM is being stopped, and a delete was not forced.
    GoingDown,
    /// The VM is in use.
    InUse,
}

/// Decides about `asked` in the given state, with the step `busy` in progress.
pub(crate) fn decide(state: VmState, busy: Option<&Op>, asked: &Op) -> Verdict {
    use Verdict::{Nothing, Refuse, Run};
    match (busy, asked) {
        (Some(_), Op::Stop { cause: StopCause::Unused, .. }) => Refuse(Reason::InUse),
        (None, Op::Stop { cause: StopCause::Unused, .. }) if state == VmState::Starting => Refuse(Reason::InUse),
        // An unfinished start goes on when there is nothing else to do. It may still fail then.
        (None, Op::Start { .. }) if state == VmState::Starting => Refuse(Reason::Starting),
        (None, Op::Start { .. }) if state.is_live() => Nothing,
        (None, Op::Stop { .. }) if !state.is_live() => Nothing,
        (None, Op::Kill { .. }) if !state.is_live() => Refuse(Reason::NotRunning),
        (Some(Op::Delete { .. }), Op::Delete { .. }) => Verdict::Wait,
        (Some(Op::Stop { .. } | Op::Kill { .. }), Op::Delete { force: false }) if state.is_live() => {
            Refuse(Reason::GoingDown)
        }
        (_, Op::Delete { force: false }) if state == VmState::Starting => Refuse(Reason::ComingUp),
        // Also on the way up or down: force is about what is lost, and that would be a VMM.
        (_, Op::Delete { force: false }) if state.is_live() => Refuse(Reason::Running),
        // The row says "stopped" until the second half of a restart has probed the host, which may take a download.
        (Some(Op::Start { .. } | Op::Restart { .. }), Op::Delete { force: false }) => Refuse(Reason::ComingUp),
        (None, _) => Run,
        (Some(busy), asked) => decide_meanwhile(busy, asked),
    }
}

/// Decides about `asked` while the step `busy` is in progress, where the state does not matter.
fn decide_meanwhile(busy: &Op, asked: &Op) -> Verdict {
    match (busy, asked) {
        (Op::Delete { .. }, _) => Verdict::Refuse(Reason::Deleting),
        // A set changes what the next start uses, not the step in progress, and takes a moment itself.
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
