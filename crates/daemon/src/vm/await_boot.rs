//! Who waits for the image's services to be up (`--wait boot`).
//!
//! The VM runs already and people may be at work in it, so this is no step: nothing that is asked meanwhile has to wait for
//! it, and nothing that ends it takes the VM down: not the client that leaves, not the time, not a stop, which is carried out
//! on a VM that runs, in order.

use super::{
    Op,
    await_agent::end,
    owner::{Owner, Seen},
    silence::Silence,
    task::Ask,
};
use crate::{failures, shim::control::ShimMessage, store::Run};
use banger_proto::{
    agent::boot::Init,
    api::vm::{VmState, Wait},
    failure::Failure,
};
use futures_util::future::select_all;
use tokio::time::sleep_until;

/// Those who wait.
#[derive(Debug)]
pub(super) struct Waiters {
    asks: Vec<Ask>,
    /// Of the guest they wait for.
    pub(super) silence: Silence,
}

impl Waiters {
    pub(super) fn none() -> Self {
        Self { asks: Vec::new(), silence: Silence::begin(&Run::default()) }
    }

    /// Whether anybody waits.
    pub(super) fn are_any(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Answers what was done, at once or, where services were to be waited for, when they are up.
    pub(super) fn admit(&mut self, ask: Ask, owner: &Owner) {
        let run = &owner.row.run;
        let is_booting =
            owner.row.state == VmState::Running && run.init != Some(Init::Agent) && run.boot_state.is_none();
        if !(is_booting && matches!(ask.op, Op::Start { wait: Wait::Boot, .. })) {
            ask.answer(Ok(()));
            return;
        }
        ask.operation.begin("waiting for the image's services");
        self.asks.push(ask);
        self.progress(owner);
    }

    /// A message that came while nothing was being done.
    pub(super) async fn attend(&mut self, message: ShimMessage, owner: &mut Owner) {
        if self.asks.is_empty() {
            return owner.attend(message).await;
        }
        match owner.take_in(message) {
            Seen::Nothing => return,
            Seen::Progress => {}
            Seen::Changed | Seen::Ready(_) => owner.save_or_log().await,
            Seen::Trouble(words) => {
                self.asks.iter().for_each(|ask| ask.operation.notice(format!("the guest says: {words}")));
            }
            Seen::Ended(record) => {
                let (code, why) = end(&record, owner.remark());
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

    /// Until one of them went away, or the guest has been silent for too long; for ever while nobody waits. Then there is
    /// something to [`Self::dismiss`].
    pub(super) async fn any_is_over(&self) {
        if self.asks.is_empty() {
            return std::future::pending().await;
        }
        let left = select_all(self.asks.iter().map(|ask| Box::pin(ask.operation.cancel().cancelled())));
        tokio::select! {
            _ = left => {}
            () = sleep_until(self.silence.deadline()) => {}
        }
    }

    /// Answers those whose wait is over.
    pub(super) fn dismiss(&mut self, owner: &Owner) {
        let is_silent = self.silence.is_over();
        for ask in std::mem::take(&mut self.asks) {
            if ask.operation.cancel().is_cancelled() {
                ask.answer(Err(cut_short(owner, "runs")));
            } else if is_silent {
                let why = self.silence.words("its init did not say that it finished booting");
                ask.answer(Err(owner.not_booted(why)));
            } else {
                self.asks.push(ask);
            }
        }
    }

    /// The machine whose services were waited for is no more.
    pub(super) fn cut_short(&mut self, owner: &Owner) {
        self.answer(&Err(cut_short(owner, "went down")));
    }

    fn progress(&mut self, owner: &Owner) {
        self.silence = Silence::begin(&owner.row.run);
    }

    fn answer(&mut self, result: &Result<(), Failure>) {
        self.asks.drain(..).for_each(|ask| ask.answer(result.clone()));
    }
}

fn cut_short(owner: &Owner, how: &str) -> Failure {
    let name = &owner.row.name;
    failures::cut_short(format!("VM {name} {how}; the wait for its services was cut short"))
}
