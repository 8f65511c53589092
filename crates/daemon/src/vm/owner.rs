//! The one who may change a VM: its row, its machine, and what the machine's messages mean for the row.

use super::{
    Op, console,
    guest_text::sanitized,
    live_state::LiveState,
    phases::{self, PhaseClock},
    policy::StopCause,
    release::{HELD, holds_machine, release},
    service::Parts,
    set, start, stop,
};
use crate::{
    capability::Depth,
    failpoint,
    operation::Operation,
    shim::{
        client::{Events, Shim},
        control::{ExitCause, ExitRecord, Opened, ShimMessage},
    },
    store::VmRow,
};
use banger_proto::{
    agent::event::{GuestEvent, Ready},
    api::vm::{Phase, VmState},
    failure::{Code, Failure},
    network::Publish,
};
use std::sync::Arc;
use tokio::sync::watch;

/// A VM and everything that is done to it.
pub(super) struct Owner {
    pub(super) parts: Arc<Parts>,
    pub(super) row: VmRow,
    pub(super) shim: Option<Shim>,
    /// Runs since a creation that the first start is part of.
    pub(super) clock: Option<PhaseClock>,
    events: Option<Events>,
    /// Number of relaunches of the machine, as of the last message.
    relaunches: u32,
    /// The same number when the agent answered the start whose phases the row has. Boots that were given up for their timer
    /// before that are no reboots of the guest.
    relaunches_at_start: u32,
    live: watch::Sender<LiveState>,
}

/// What a message meant.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing new.
    Nothing,
    /// The guest is alive and getting somewhere.
    Progress,
    /// A fact of the row changed.
    Changed,
    /// The agent answers.
    Ready(Ready),
    /// The guest has something to say.
    Trouble(String),
    /// The machine ended for good.
    Ended(ExitRecord),
}

impl Owner {
    pub(super) fn new(parts: Arc<Parts>, row: VmRow, shim: Option<Shim>) -> Self {
        let live = watch::Sender::new(LiveState::of(row.state, false));
        let events = shim.as_ref().map(Shim::events);
        Self { parts, row, shim, clock: None, events, relaunches: 0, relaunches_at_start: 0, live }
    }

    /// Tells those of its changes who watch there.
    pub(super) fn publish_to(&mut self, live: watch::Sender<LiveState>) {
        self.live = live;
    }

    pub(super) fn row(&self) -> &VmRow {
        &self.row
    }

    /// Tells of every change.
    pub(super) fn watch_state(&self) -> watch::Receiver<LiveState> {
        self.live.subscribe()
    }

    /// Carries out one step.
    pub(super) async fn perform(&mut self, op: Op, operation: &Operation, resume: bool) -> Result<(), Failure> {
        let brings_up = matches!(op, Op::Start { .. } | Op::Restart { .. });
        self.live.send_modify(|live| live.coming_up = brings_up);
        let result = self.carry_out(op, operation, resume).await;
        self.live.send_modify(|live| live.coming_up = false);
        result
    }

    async fn carry_out(&mut self, op: Op, operation: &Operation, resume: bool) -> Result<(), Failure> {
        match op {
            Op::Start { .. } if resume => start::resume(self, operation).await,
            Op::Start { overcommit, .. } => start::start(self, operation, overcommit).await,
            Op::Stop { grace, cause } => stop::stop(self, operation, grace, cause).await,
            Op::Restart { grace, overcommit } => {
                if self.row.state.is_live() {
                    start::preflight_again(self, operation, overcommit).await?;
                    stop::stop(self, operation, grace, StopCause::Asked).await?;
                    failpoint::hit("restart.down").await;
                }
                start::start(self, operation, overcommit).await
            }
            Op::Kill { signal } => stop::kill(self, signal).await,
            Op::Set(wanted) => set::set(self, operation, wanted).await,
            Op::Delete { .. } => {
                operation.begin(format!("deleting VM {}", self.row.name));
                // From here on there is no way back: half of its disk is no disk.
                self.row.run.deleting = true;
                self.save_or_log().await;
                failpoint::hit("delete.begun").await;
                self.end_machine().await;
                failpoint::hit("delete.ended").await;
                let released = release(&self.parts, &self.row.id, Depth::Everything).await;
                if let Err(failure) = &released {
                    // It is still there, without a machine, until somebody deletes it again.
                    let _ = self.down(VmState::Failed, Some(format!("it could not be deleted: {failure}"))).await;
                }
                released
            }
        }
    }

    /// The machine's next message; none while there is no machine.
    pub(super) async fn next_message(&mut self) -> ShimMessage {
        if let Some(events) = &mut self.events {
            if let Some(message) = events.next().await {
                return message;
            }
            self.events = None;
        }
        std::future::pending().await
    }

    /// Begins to follow a machine.
    pub(super) fn follow(&mut self, shim: Shim) {
        self.events = Some(shim.events());
        (self.relaunches, self.relaunches_at_start) = (0, 0);
        self.shim = Some(shim);
    }

    /// Records the phases of a start up to the agent's answer. They describe the boot that is running now.
    pub(super) fn record_phases(&mut self, phases: Vec<Phase>) {
        self.row.run.phases = phases;
        self.relaunches_at_start = self.relaunches;
    }

    /// Has everything told again that is known of the machine, such as that its agent answers.
    pub(super) fn resubscribe(&mut self) {
        self.events = self.shim.as_ref().map(Shim::events);
    }

    /// Whether a start is to go on: there is a machine, and nothing has decided what becomes of it.
    pub(super) fn is_half_started(&self) -> bool {
        self.row.state == VmState::Starting && self.shim.is_some()
    }

    /// Writes the row and tells whoever waits for a change.
    pub(super) async fn save(&mut self) -> Result<(), Failure> {
        let written = self.parts.store.update_vm(&self.row).await;
        let state = self.row.state;
        self.live.send_modify(|live| live.state = state);
        written?;
        Ok(())
    }

    /// [`Self::save`] where there is nobody to tell of a failure: the row is written again at the next change, and the
    /// next daemon finds out by itself.
    pub(super) async fn save_or_log(&mut self) {
        if let Err(failure) = self.save().await {
            tracing::error!(vm = %self.row.name, %failure, "cannot write a VM's state");
        }
    }

    /// A message that came while nothing was being done.
    pub(super) async fn handle_idle(&mut self, message: ShimMessage) {
        match self.apply(message) {
            Effect::Nothing | Effect::Progress => {}
            Effect::Changed | Effect::Ready(_) => self.save_or_log().await,
            Effect::Trouble(words) => {
                self.row.reason = Some(words);
                self.save_or_log().await;
            }
            Effect::Ended(record) => self.ended(record).await,
        }
    }

    /// What a message means for the row.
    pub(super) fn apply(&mut self, message: ShimMessage) -> Effect {
        // A step that changed ports has written down what came of it; what was said before that is heard after it.
        let now = self.shim.as_ref().map(|shim| shim.status().published);
        let open = |said| published_at(&now.unwrap_or(said));
        let run = &mut self.row.run;
        match message {
            ShimMessage::Status(status) => {
                run.shim = Some(status.shim);
                run.vmm_process = status.vmm;
                run.unconfined = status.unconfined;
                // An adopted machine that was relaunched before this daemon saw it may have been up before that: neither the
                // row nor the shim can tell, so its boot counts as a reboot until a resumed start records its phases.
                self.relaunches = status.relaunches;
                run.published = open(status.published);
                run.boot_state = status.booted.as_deref().map(sanitized);
                if let Some(ready) = status.ready {
                    return self.ready(ready);
                }
                // It reboots: what is written down is of another boot.
                run.forget_boot();
                Effect::Changed
            }
            ShimMessage::VmmStarted { vmm, .. } => {
                run.vmm_process = Some(vmm);
                Effect::Changed
            }
            ShimMessage::Relaunching => {
                run.vmm_process = None;
                self.relaunches += 1;
                run.forget_boot();
                Effect::Changed
            }
            ShimMessage::Published { published, .. } => {
                run.published = open(published);
                Effect::Changed
            }
            ShimMessage::Console { .. } => Effect::Progress,
            ShimMessage::Guest { event: GuestEvent::Ready(ready), .. } => self.ready(ready),
            ShimMessage::Guest { event: GuestEvent::Booted { state }, .. } => {
                run.boot_state = Some(sanitized(&state));
                Effect::Changed
            }
            ShimMessage::Guest { event: GuestEvent::Exec { asked_ms, started_ms }, .. } => {
                if self.relaunches != self.relaunches_at_start {
                    // The command is the first one of another boot than the one that the phases describe.
                    return Effect::Nothing;
                }
                phases::add_exec(&mut run.phases, asked_ms, started_ms);
                Effect::Changed
            }
            ShimMessage::Guest { event: GuestEvent::Trouble { message }, .. } => {
                let words = sanitized(&message);
                tracing::warn!(vm = %self.row.name, trouble = words, "the guest is in trouble");
                Effect::Trouble(words)
            }
            ShimMessage::Guest { event: GuestEvent::Power { .. }, .. } => Effect::Nothing,
            ShimMessage::Ended(record) => Effect::Ended(record),
        }
    }

    fn ready(&mut self, ready: Ready) -> Effect {
        let run = &mut self.row.run;
        run.boot_id = Some(sanitized(&ready.boot_id));
        run.init = Some(ready.init);
        run.agent_api = Some(ready.api_version);
        Effect::Ready(ready)
    }

    /// The machine ended by itself.
    pub(super) async fn ended(&mut self, record: ExitRecord) {
        tracing::info!(vm = %self.row.name, cause = ?record.cause, reason = record.reason, "the machine ended");
        let (state, reason) = outcome(&record);
        let _ = self.down(state, reason.or(self.remark())).await;
    }

    /// What there is to say about the machine's end where the daemon brought it about.
    pub(super) fn remark(&self) -> Option<String> {
        self.shim.as_ref().and_then(Shim::remark)
    }

    /// Ends the machine if there is one: how it ended. Where its shim does not answer its guest gets a chance to write what it
    /// has, and the error is what there is to say about that.
    pub(super) async fn end_and_wait(&mut self) -> Result<Option<ExitRecord>, String> {
        let ended = match &self.shim {
            Some(shim) => shim.end_and_wait(stop::END_TIMEOUT).await.map(Some),
            None => Ok(None),
        };
        self.events = None;
        self.shim = None;
        ended
    }

    /// Ends the machine if there is one, whatever it was doing and whatever its guest has to write.
    pub(super) async fn end_machine(&mut self) {
        if let Some(shim) = &self.shim {
            // One that was stopped would not hear of it.
            shim.wake();
            // A shim that does not do it is ended by `release`, with proof of who it is.
            if shim.end().await.is_ok() {
                let _ = tokio::time::timeout(stop::END_TIMEOUT, shim.ended()).await;
            }
        }
        self.events = None;
        self.shim = None;
    }

    /// The machine is gone: gives back what it held and says how the VM is now. What does not end of it has the VM's disk
    /// still: then it has failed, holds its machine, and that is the error.
    pub(super) async fn down(&mut self, state: VmState, reason: Option<String>) -> Result<(), Failure> {
        self.events = None;
        self.shim = None;
        let released = release(&self.parts, &self.row.id, Depth::Machine).await;
        failpoint::hit("down.released").await;
        self.live.send_modify(|live| live.ends += 1);
        self.row.run.ended();
        (self.row.state, self.row.reason) = (state, reason);
        let mut done = Ok(());
        if let Err(failure) = released {
            tracing::error!(vm = %self.row.name, %failure, "cannot give back all a machine held");
            if holds_machine(&self.parts, &self.row.id).await {
                (self.row.state, self.row.reason) = (VmState::Failed, Some(failure.to_string()));
                let name = &self.row.name;
                let left = format!("VM {name} is not down: what runs of it does not end");
                done = Err(Failure::new(failure.code, left).cause(failure.to_string()).hint(HELD));
            }
        }
        self.save_or_log().await;
        failpoint::hit("down.saved").await;
        done
    }

    /// There is no machine yet, and there was to be none any more.
    pub(super) async fn mark_stopped(&mut self) {
        self.row.state = VmState::Stopped;
        self.save_or_log().await;
    }

    /// A failure of this VM's start with the evidence and what to do about it.
    pub(super) fn not_ready(&self, code: Code, why: String) -> Failure {
        let name = &self.row.name;
        let failure = Failure::new(code, format!("VM {name} did not become ready")).cause(why);
        self.with_console(failure).hint(format!("`banger vm delete {name}` deletes it"))
    }

    /// It runs, and that is not all that was waited for.
    pub(super) fn not_booted(&self, why: String) -> Failure {
        let name = &self.row.name;
        let failure = Failure::new(Code::Timeout, format!("VM {name} runs, but its services are not up")).cause(why);
        self.with_console(failure)
            .hint(format!("`banger vm exec {name} -- CMD` works meanwhile, `banger vm stop {name}` stops it"))
    }

    /// The failure with what the console said last.
    pub(super) fn with_console(&self, mut failure: Failure) -> Failure {
        let lines = console::last_lines(&self.parts.layout.vm(&self.row.id));
        if !lines.is_empty() {
            failure = failure.cause(format!("its console ended with:\n    {}", lines.join("\n    ")));
        }
        failure.hint(format!("`banger vm logs {}` shows its whole console", self.row.name))
    }
}

/// The state a machine's end leads to, and what there is to say about it.
pub(super) fn outcome(record: &ExitRecord) -> (VmState, Option<String>) {
    match record.cause {
        ExitCause::Poweroff | ExitCause::Ended | ExitCause::Killed => (VmState::Stopped, None),
        ExitCause::GuestFailed | ExitCause::VmmFailed => (VmState::Failed, Some(sanitized(&record.reason))),
    }
}

/// Where published ports are.
pub(super) fn published_at(opened: &[Opened]) -> Vec<Publish> {
    opened.iter().map(|opened| opened.at).collect()
}
