//! The task that owns one VM: it carries out one step at a time and reads its mailbox meanwhile.
//!
//! The task carries out what [`policy`](super::policy) decides and decides nothing itself.

use super::{
    Op,
    owner::Owner,
    policy::{self, Reason, StopCause, Verdict},
    readopt::look,
    service::no_vm,
    wait::boot::Waiters,
};
use crate::operation::{Operation, Preemption};
use banger_machine::{failpoint, shim::control::ShimMessage};
use banger_proto::{
    api::vm::{VmState, Wait},
    failure::{Code, Failure},
    name::VmName,
};
use std::collections::VecDeque;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// A command in a VM's mailbox: an operation, its request and where the result goes.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) op: Op,
    pub(super) operation: Operation,
    pub(super) reply: oneshot::Sender<Result<(), Failure>>,
}

impl Command {
    /// Returns the command and the receiver of its result.
    pub(super) fn new(op: Op, operation: &Operation) -> (Self, oneshot::Receiver<Result<(), Failure>>) {
        let (reply, answer) = oneshot::channel();
        (Self { op, operation: operation.clone(), reply }, answer)
    }

    pub(super) fn answer(self, result: Result<(), Failure>) {
        // The client may be gone.
        let _ = self.reply.send(result);
    }

    /// Returns the token that cancels the step. A client that leaves cancels a start, which gives its resources back
    /// unless its agent has answered. A step that takes a VM down goes on without its client: half of it is worse than
    /// all of it.
    fn cancel(&self) -> CancellationToken {
        match self.op {
            Op::Start { .. } | Op::Restart { .. } => self.operation.cancel().child_token(),
            Op::Stop { .. } | Op::Kill { .. } | Op::Set(_) | Op::Delete { .. } => CancellationToken::new(),
        }
    }
}

/// Runs until the VM is deleted or the daemon ends. `first` is carried out before the commands that already wait.
pub(super) async fn run(mut owner: Owner, mut commands: mpsc::Receiver<Command>, first: Option<Command>) {
    let mut waiting: VecDeque<Command> = first.into_iter().collect();
    let mut waiters = Waiters::new();
    loop {
        let mut resume = false;
        let command = if let Some(command) = waiting.pop_front() {
            command
        } else if owner.is_half_started() {
            // Adopted or left with an unfinished start.
            resume = true;
            Command::new(Op::Start { wait: Wait::Agent, overcommit: false }, &Operation::unwatched()).0
        } else {
            match next(&mut commands, &mut owner, &waiters).await {
                Next::Command(command) => command,
                Next::Message(message) => {
                    waiters.handle(message, &mut owner).await;
                    continue;
                }
                Next::WaitExpired => {
                    waiters.answer_expired(&owner);
                    continue;
                }
                Next::Closed => return,
            }
        };
        if waiters.any() && matches!(command.op, Op::Stop { cause: StopCause::Unused, .. }) {
            let name = &owner.row().name;
            let used = Failure::new(Code::Conflict, format!("VM {name} is in use: its services are waited for"));
            command.answer(Err(used));
            continue;
        }
        // An earlier daemon saw it run, and this one has not seen it yet.
        if matches!(command.op, Op::Start { .. })
            && let Err(failure) = look(&mut owner).await
        {
            command.answer(Err(failure));
            continue;
        }
        if matches!(command.op, Op::Stop { .. } | Op::Kill { .. }) && owner.has_remains().await {
            let ended = owner.end_remains().await;
            command.answer(ended);
            continue;
        }
        let verdict = if resume { Verdict::Run } else { policy::decide(owner.row().state, None, &command.op) };
        match verdict {
            Verdict::Nothing => waiters.complete(command, &owner),
            Verdict::Refuse(reason) => command.answer(Err(refusal(&owner.row().name, reason))),
            Verdict::Run | Verdict::Cancel | Verdict::Wait => {
                let machine = owner.row().run.shim;
                let result = step(&mut owner, &command, &mut commands, &mut waiting, resume).await;
                let is_deleted = result.is_ok() && matches!(command.op, Op::Delete { .. });
                if is_deleted || !owner.row().state.is_live() || owner.row().run.shim != machine {
                    waiters.cut_short(&owner);
                }
                if !is_deleted {
                    answer_kills(&owner, &command.op, &mut waiting);
                }
                match result {
                    Ok(()) if is_deleted => {
                        command.answer(Ok(()));
                        break;
                    }
                    Ok(()) => waiters.complete(command, &owner),
                    Err(failure) => command.answer(Err(failure)),
                }
            }
        }
    }
    commands.close();
    while let Some(command) = commands.recv().await {
        waiting.push_back(command);
    }
    for command in waiting {
        // A delete of a VM that is gone has succeeded; any other operation has no VM left.
        let result = match command.op {
            Op::Delete { .. } => Ok(()),
            _ => Err(no_vm(owner.row().name.as_str())),
        };
        command.answer(result);
    }
}

/// Event to handle while no step is in progress.
#[derive(Debug)]
pub(super) enum Next {
    /// A command came.
    Command(Command),
    /// The machine sent a message.
    Message(ShimMessage),
    /// A wait for services has expired.
    WaitExpired,
    /// The daemon ends.
    Closed,
}

/// Waits for the next event. Cancelling loses nothing.
pub(super) async fn next(commands: &mut mpsc::Receiver<Command>, owner: &mut Owner, waiters: &Waiters) -> Next {
    tokio::select! {
        // Commands come first, so that a talkative guest delays nobody. Messages come before expired waits, because the
        // guest sent them in time.
        biased;
        command = commands.recv() => command.map_or(Next::Closed, Next::Command),
        message = owner.next_message() => Next::Message(message),
        () = waiters.any_expired() => Next::WaitExpired,
    }
}

/// Answers the kills that waited for a step which took the machine down: their purpose is fulfilled.
fn answer_kills(owner: &Owner, done: &Op, waiting: &mut VecDeque<Command>) {
    if owner.row().state.is_live() || matches!(done, Op::Set(_)) {
        return;
    }
    for command in std::mem::take(waiting) {
        match command.op {
            Op::Kill { .. } => command.answer(Ok(())),
            _ => waiting.push_back(command),
        }
    }
}

/// Carries out one step and reads the mailbox meanwhile.
async fn step(
    owner: &mut Owner,
    command: &Command,
    commands: &mut mpsc::Receiver<Command>,
    waiting: &mut VecDeque<Command>,
    resume: bool,
) -> Result<(), Failure> {
    let (op, cancel) = (&command.op, command.cancel());
    let preemption = Preemption::default();
    let operation = command.operation.step(cancel.clone(), preemption.clone());
    let (name, live) = (owner.row().name.clone(), owner.watch_state());
    let span = tracing::info_span!("vm", %name, operation = %operation.id());
    let mut is_taken_down = false;
    let result = {
        let work = Box::pin(owner.perform(op.clone(), &operation, resume).instrument(span));
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => break result,
                Some(other) = commands.recv() => {
                    let now = live.borrow().state;
                    match policy::decide(now, Some(op), &other.op) {
                        Verdict::Refuse(reason) => other.answer(Err(refusal(&name, reason))),
                        Verdict::Nothing => other.answer(Ok(())),
                        Verdict::Cancel => {
                            let asked = other.op.name();
                            tracing::info!(%name, operation = %operation.id(), asked, "a step is cut short");
                            is_taken_down |= matches!(other.op, Op::Stop { .. } | Op::Kill { .. });
                            preemption.set(asked);
                            cancel.cancel();
                            waiting.push_back(other);
                        }
                        Verdict::Wait | Verdict::Run => waiting.push_back(other),
                    }
                }
            }
        }
    };
    if is_taken_down && owner.row().state == VmState::Created {
        // A VM that is only created is removed by its failed creation. This one was stopped on request, so it stays.
        owner.mark_stopped().await;
        failpoint::hit("overtaken.saved").await;
    }
    result.inspect_err(|failure| {
        tracing::info!(%name, operation = %operation.id(), code = failure.code.as_str(), %failure, "a step failed");
    })
}

fn refusal(name: &VmName, reason: Reason) -> Failure {
    let conflict = |text: &str| Failure::new(Code::Conflict, format!("VM {name} {text}"));
    let by_force = format!("`banger vm delete -f {name}` deletes it all the same");
    match reason {
        Reason::Starting => conflict("is being started")
            .hint(format!("`banger vm logs -f {name}` shows how far it is, `banger vm stop {name}` ends it")),
        Reason::Stopping => conflict("is being stopped").hint("ask again when it is down (`banger ps -a`)"),
        Reason::Deleting => conflict("is being deleted"),
        // There is nothing left to end, so there is no hint.
        Reason::NotRunning => conflict("is not running"),
        Reason::InUse => conflict("is in use"),
        Reason::Running => conflict("is running")
            .hint(format!("`banger vm stop {name}` has its guest write its data first"))
            .hint(by_force),
        Reason::ComingUp => conflict("is being started").hint(by_force),
        Reason::GoingDown => conflict("is being stopped").hint(by_force),
    }
}
