//! Waiting for the image's services to be up (`--wait boot`).
//!
//! The VM already runs and may be in use, so this wait is not a step. Other commands do not have to wait for it, and
//! its end does not take the VM down, whether the client leaves, the time is over or a stop is carried out on the
//! running VM.

use crate::vm::{
    Op,
    owner::{Effect, Owner},
    task::Command,
    wait::agent::explain_end,
    watchdog::Watchdog,
};
use crate::{failures, store::Run};
use banger_machine::shim::control::ShimMessage;
use banger_proto::{
    agent::boot::Init,
    api::vm::{VmState, Wait},
    failure::Failure,
};
use futures_util::future::select_all;
use tokio::time::sleep_until;

/// Commands whose clients wait for the services.
#[derive(Debug)]
pub(in crate::vm) struct Waiters {
    commands: Vec<Command>,
    /// Watchdog of the guest's boot.
    pub(in crate::vm) watchdog: Watchdog,
}

impl Waiters {
    pub(in crate::vm) fn new() -> Self {
        Self { commands: Vec::new(), watchdog: Watchdog::start(&Run::default()) }
    }

    /// Whether any client waits.
    pub(in crate::vm) fn any(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Answers a command that was carried out: at once, or once the services are up if its client waits for them.
    pub(in crate::vm) fn complete(&mut self, command: Command, owner: &Owner) {
        let run = &owner.row.run;
        let is_booting =
            owner.row.state == VmState::Running && run.init != Some(Init::Agent) && run.boot_state.is_none();
        if !(is_booting && matches!(command.op, Op::Start { wait: Wait::Boot, .. })) {
            command.answer(Ok(()));
            return;
        }
        command.operation.begin("waiting for the image's services");
        self.commands.push(command);
        self.progress(owner);
    }

    /// Handles a message that came while no step was in progress.
    pub(in crate::vm) async fn handle(&mut self, message: ShimMessage, owner: &mut Owner) {
        if self.commands.is_empty() {
            return owner.handle_idle(message).await;
        }
        match owner.apply(message) {
            Effect::Nothing => return,
            Effect::Progress => {}
            Effect::Changed | Effect::Ready(_) => owner.save_or_log().await,
            Effect::Trouble(words) => {
                self.commands.iter().for_each(|command| command.operation.notice(format!("the guest says: {words}")));
            }
            Effect::Ended(record) => {
                let (code, why) = explain_end(&record, owner.remark());
                let failure = Failure::new(code, format!("VM {} ended before its services were up", owner.row.name));
                let failure = owner.with_console(failure.cause(why));
                owner.ended(record).await;
                return self.answer(&Err(failure));
            }
        }
        self.progress(owner);
        if owner.row.run.boot_state.is_some() {
            self.answer(&Ok(()));
        }
    }

    /// Completes when a client has left or the watchdog's deadline has passed; [`Self::answer_expired`] is due then.
    /// Waits for ever while no client waits.
    pub(in crate::vm) async fn any_expired(&self) {
        if self.commands.is_empty() {
            return std::future::pending().await;
        }
        let left = select_all(self.commands.iter().map(|command| Box::pin(command.operation.cancel().cancelled())));
        tokio::select! {
            _ = left => {}
            () = sleep_until(self.watchdog.deadline()) => {}
        }
    }

    /// Answers the commands whose clients have left, and all of them if the guest has been silent for too long.
    pub(in crate::vm) fn answer_expired(&mut self, owner: &Owner) {
        let is_silent = self.watchdog.is_expired();
        for command in std::mem::take(&mut self.commands) {
            if command.operation.cancel().is_cancelled() {
                command.answer(Err(cut_short(owner, "runs")));
            } else if is_silent {
                let why = self.watchdog.describe("its init did not say that it finished booting");
                command.answer(Err(owner.not_booted(why)));
            } else {
                self.commands.push(command);
            }
        }
    }

    /// Answers all commands after the machine went down.
    pub(in crate::vm) fn cut_short(&mut self, owner: &Owner) {
        self.answer(&Err(cut_short(owner, "went down")));
    }

    fn progress(&mut self, owner: &Owner) {
        self.watchdog = Watchdog::start(&owner.row.run);
    }

    fn answer(&mut self, result: &Result<(), Failure>) {
        self.commands.drain(..).for_each(|command| command.answer(result.clone()));
    }
}

fn cut_short(owner: &Owner, how: &str) -> Failure {
    let name = &owner.row.name;
    failures::cut_short(format!("VM {name} {how}; the wait for its services was cut short"))
}
