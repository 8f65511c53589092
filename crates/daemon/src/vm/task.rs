//! The task that owns one VM: one step at a time, a mailbox that is read meanwhile.
//!
//! It carries out what [`policy`](super::policy) decides and decides nothing itself.

use super::{
    Op,
    await_boot::Waiters,
    owner::Owner,
    policy::{self, Reason, StopCause, Verdict},
    service::no_vm,
};
use crate::{
    failpoint,
    operation::{Operation, Overtaken},
    shim::control::ShimMessage,
};
use banger_proto::{
    api::vm::{VmState, Wait},
    failure::{Code, Failure},
    name::VmName,
};
use std::collections::VecDeque;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Something asked of a VM.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) op: Op,
    pub(super) operation: Operation,
    pub(super) reply: oneshot::Sender<Result<(), Failure>>,
}

impl Ask {
    /// With where its answer comes.
    pub(super) fn new(op: Op, operation: &Operation) -> (Self, oneshot::Receiver<Result<(), Failure>>) {
        let (reply, answer) = oneshot::channel();
        (Self { op, operation: operation.clone(), reply }, answer)
    }

    pub(super) fn answer(self, result: Result<(), Failure>) {
        // Who asked may be gone.
        let _ = self.reply.send(result);
    }

    /// What stops the step: whoever asked going away stops a start, which gives its resources back unless its agent has
    /// answered. What takes a VM down goes on without its client: half of it is worse than all of it.
    fn cancel(&self) -> CancellationToken {
        match self.op {
            Op::Start { .. } | Op::Restart { .. } => self.operation.cancel().child_token(),
            Op::Stop { .. } | Op::Kill { .. } | Op::Set(_) | Op::Delete { .. } => CancellationToken::new(),
        }
    }
}

/// Runs until the VM is deleted or the daemon ends. `first` comes before what waits at the door already.
pub(super) async fn run(mut owner: Owner, mut asks: mpsc::Receiver<Ask>, first: Option<Ask>) {
    let mut waiting: VecDeque<Ask> = first.into_iter().collect();
    let mut waiters = Waiters::none();
    loop {
        let mut resume = false;
        let ask = if let Some(ask) = waiting.pop_front() {
            ask
        } else if owner.is_half_started() {
            // Adopted on its way up, or left so.
            resume = true;
            Ask::new(Op::Start { wait: Wait::Agent, overcommit: false }, &Operation::silent()).0
        } else {
            match next(&mut asks, &mut owner, &waiters).await {
                Next::Asked(ask) => ask,
                Next::Said(message) => {
                    waiters.attend(message, &mut owner).await;
                    continue;
                }
                Next::WaitOver => {
                    waiters.dismiss(&owner);
                    continue;
                }
                Next::Closed => return,
            }
        };
        if waiters.are_any() && matches!(ask.op, Op::Stop { cause: StopCause::Unused, .. }) {
            let name = &owner.row().name;
            let used = Failure::new(Code::Conflict, format!("VM {name} is in use: its services are waited for"));
            ask.answer(Err(used));
            continue;
        }
        let verdict = if resume { Verdict::Run } else { policy::decide(owner.row().state, None, &ask.op) };
        match verdict {
            Verdict::Nothing => waiters.admit(ask, &owner),
            Verdict::Refuse(reason) => ask.answer(Err(refusal(&owner.row().name, reason))),
            Verdict::Run | Verdict::Cancel | Verdict::Wait => {
                let machine = owner.row().run.shim;
                let result = step(&mut owner, &ask, &mut asks, &mut waiting, resume).await;
                let is_deleted = result.is_ok() && matches!(ask.op, Op::Delete { .. });
                if is_deleted || !owner.row().state.is_live() || owner.row().run.shim != machine {
                    waiters.cut_short(&owner);
                }
                if !is_deleted {
                    settle(&owner, &ask.op, &mut waiting);
                }
                match result {
                    Ok(()) if is_deleted => {
                        ask.answer(Ok(()));
                        break;
                    }
                    Ok(()) => waiters.admit(ask, &owner),
                    Err(failure) => ask.answer(Err(failure)),
                }
            }
        }
    }
    asks.close();
    while let Some(ask) = asks.recv().await {
        waiting.push_back(ask);
    }
    for ask in waiting {
        // Deleting what is gone has worked; everything else has nobody to work on.
        let result = match ask.op {
            Op::Delete { .. } => Ok(()),
            _ => Err(no_vm(owner.row().name.as_str())),
        };
        ask.answer(result);
    }
}

/// What comes next while no step is in progress.
#[derive(Debug)]
pub(super) enum Next {
    /// Something is asked.
    Asked(Ask),
    /// The machine says something.
    Said(ShimMessage),
    /// A wait for services is over.
    WaitOver,
    /// The daemon ends.
    Closed,
}

/// Cancelling loses nothing.
pub(super) async fn next(asks: &mut mpsc::Receiver<Ask>, owner: &mut Owner, waiters: &Waiters) -> Next {
    tokio::select! {
        // A guest that talks holds up nobody, and what it said was in time although nobody has read it yet.
        biased;
        ask = asks.recv() => ask.map_or(Next::Closed, Next::Asked),
        message = owner.next_message() => Next::Said(message),
        () = waiters.any_is_over() => Next::WaitOver,
    }
}

/// Answers the kills that waited for a step which took the machine down: what they were for has happened.
fn settle(owner: &Owner, done: &Op, waiting: &mut VecDeque<Ask>) {
    if owner.row().state.is_live() || matches!(done, Op::Set(_)) {
        return;
    }
    for ask in std::mem::take(waiting) {
        match ask.op {
            Op::Kill { .. } => ask.answer(Ok(())),
            _ => waiting.push_back(ask),
        }
    }
}

/// One step, with the mailbox open.
async fn step(
    owner: &mut Owner,
    ask: &Ask,
    asks: &mut mpsc::Receiver<Ask>,
    waiting: &mut VecDeque<Ask>,
    resume: bool,
) -> Result<(), Failure> {
    let (op, cancel) = (&ask.op, ask.cancel());
    let overtaken = Overtaken::default();
    let operation = ask.operation.step(cancel.clone(), overtaken.clone());
    let (name, standing) = (owner.row().name.clone(), owner.standing());
    let span = tracing::info_span!("vm", %name, operation = %operation.id());
    let mut is_taken_down = false;
    let result = {
        let work = Box::pin(owner.perform(op.clone(), &operation, resume).instrument(span));
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => break result,
                Some(other) = asks.recv() => {
                    let now = standing.borrow().state;
                    match policy::decide(now, Some(op), &other.op) {
                        Verdict::Refuse(reason) => other.answer(Err(refusal(&name, reason))),
                        Verdict::Nothing => other.answer(Ok(())),
                        Verdict::Cancel => {
                            let asked = other.op.name();
                            tracing::info!(%name, operation = %operation.id(), asked, "a step is cut short");
                            is_taken_down |= matches!(other.op, Op::Stop { .. } | Op::Kill { .. });
                            overtaken.tell(asked);
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
        // Who had it made takes back one that was only created; this one is somebody's who wanted it stopped.
        owner.stopped().await;
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
        // What there was to end has ended.
        Reason::NotRunning => conflict("is not running"),
        Reason::InUse => conflict("is in use"),
        Reason::Running => conflict("is running")
            .hint(format!("`banger vm stop {name}` has its guest write its data first"))
            .hint(by_force),
        Reason::ComingUp => conflict("is being started").hint(by_force),
        Reason::GoingDown => conflict("is being stopped").hint(by_force),
    }
}
