//! The owner of a VM: the only one that changes its row and its machine, and that applies the machine's messages to the
//! row.

use super::{
    Op, console,
    guest_text::sanitized,
    live_state::LiveState,
    phases::{self, PhaseClock},
    policy::StopCause,
    release::{HELD_HINT, holds_machine, release},
    service::Parts,
    set, start, stop,
};
use crate::{capability::Depth, operation::Operation, store::VmRow};
use banger_machine::{
    failpoint,
    shim::{
        client::{Events, Shim},
        control::{ExitCause, ExitRecord, Opened, ShimMessage},
    },
};
use banger_proto::{
    agent::event::{GuestEvent, Ready},
    api::vm::{Phase, VmState},
    failure::{Code, Failure},
    network::Publish,
};
use std::sync::Arc;
use tokio::sync::watch;

/// A VM's row and machine, and every step that is carried out on them.
pub(super) struct Owner {
    pub(super) parts: Arc<Parts>,
    pub(super) row: VmRow,
    pub(super) shim: Option<Shim>,
    /// Phase clock of a creation that goes on with the first start.
    pub(super) clock: Option<PhaseClock>,
    events: Option<Events>,
    /// Number of relaunches of the machine, as of the last message.
    relaunches: u32,
    /// The same number when the agent answered the start whose phases are in the row. Boots before that, which were
    /// given up for their timer, are no reboots of the guest.
    relaunches_at_start: u32,
    live: watch::Sender<LiveState>,
}

/// Effect of a message on the VM.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing changed.
    Nothing,
    /// The guest is alive and makes progress.
    Progress,
    /// The row changed.
    Changed,
    /// The agent is ready.
    Ready(Ready),
    /// The guest reports trouble.
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

    /// Publishes the state of the VM to `live` from now on.
    pub(super) fn publish_to(&mut self, live: watch::Sender<LiveState>) {
        self.live = live;
    }

    pub(super) fn row(&self) -> &VmRow {
        &self.row
    }

    /// Subscribes to the VM's state.
    pub(super) fn watch_state(&self) -> watch::Receiver<LiveState> {
        self.live.subscribe()
    }

    /// Carries out one step, and publishes meanwhile whether it brings the VM up.
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
                // From here on there is no way back: half of the VM would be left.
                self.row.run.deleting = true;
                self.save_or_log().await;
                failpoint::hit("delete.begun").await;
                self.end_machine().await;
                failpoint::hit("delete.ended").await;
                let released = release(&self.parts, &self.row.id, Depth::Everything).await;
                if let Err(failure) = &released {
                    // The VM stays, without a machine, until it is deleted again.
                    let _ = self.down(VmState::Failed, Some(format!("it could not be deleted: {failure}"))).await;
                }
                released
            }
        }
    }

    /// Returns the machine's next message; waits for ever while there is no machine.
    pub(super) async fn next_message(&mut self) -> ShimMessage {
        if let Some(events) = &mut self.events {
            if let Some(message) = events.next().await {
                return message;
            }
            self.events = None;
        }
        std::future::pending().await
    }

    /// Follows the messages of a machine that was just launched or found.
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

    /// Subscribes to the machine's messages anew: the first one then repeats all that is known, such as that the agent
    /// is ready.
    pub(super) fn resubscribe(&mut self) {
        self.events = self.shim.as_ref().map(Shim::events);
    }

    /// Whether an unfinished start goes on: there is a machine, and no other step has decided about it.
    pub(super) fn is_half_started(&self) -> bool {
        self.row.state == VmState::Starting && self.shim.is_some()
    }

    /// Writes the row and publishes its state.
    pub(super) async fn save(&mut self) -> Result<(), Failure> {
        let written = self.parts.store.update_vm(&self.row).await;
        let state = self.row.state;
        self.live.send_modify(|live| live.state = state);
        written?;
        Ok(())
    }

    /// Does the same where no client could be told of a failure. The row is written again at the next change, and the
    /// next daemon looks at the machine itself.
    pub(super) async fn save_or_log(&mut self) {
        if let Err(failure) = self.save().await {
            tracing::error!(vm = %self.row.name, %failure, "cannot write a VM's state");
        }
    }

    /// Handles a message that came while no step was in progress.
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

    /// Applies a message to the row, without writing it.
    pub(super) fn apply(&mut self, message: ShimMessage) -> Effect {
        // A step that changed ports has already recorded the result, and a message sent before that is read after it.
        // So the present ports count, not those of the message.
        let now = self.shim.as_ref().map(|shim| shim.status().published);
        let open = |said| published_at(&now.unwrap_or(said));
        let run = &mut self.row.run;
        match message {
            ShimMessage::Status(status) => {
                run.shim = Some(status.shim);
                run.vmm_process = status.vmm;
                run.unconfined = status.unconfined;
                // The guest of an adopted machine that was relaunched may have been up before that. Neither the row nor
                // the shim can tell, so its boot counts as a reboot until a resumed start records its phases.
                self.relaunches = status.relaunches;
                run.published = open(status.published);
                run.boot_state = status.booted.as_deref().map(sanitized);
                if let Some(ready) = status.ready {
                    return self.ready(ready);
                }
                // The guest is rebooting: the recorded facts belong to an earlier boot.
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
                    // This is the first command of another boot than the one that the phases describe.
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

    /// Records the end of a machine that ended by itself.
    pub(super) async fn ended(&mut self, record: ExitRecord) {
        tracing::info!(vm = %self.row.name, cause = ?record.cause, reason = record.reason, "the machine ended");
        let (state, reason) = outcome(&record);
        let _ = self.down(state, reason.or(self.remark())).await;
    }

    /// Returns what a user must know about the machine's end where the daemon caused it.
    pub(super) fn remark(&self) -> Option<String> {
        self.shim.as_ref().and_then(Shim::remark)
    }

    /// Ends the machine, if there is one, and returns how it ended. Where its shim does not answer, the guest first
    /// gets a chance to write its data; the error describes that.
    pub(super) async fn end_and_wait(&mut self) -> Result<Option<ExitRecord>, String> {
        let ended = match &self.shim {
            Some(shim) => shim.end_and_wait(stop::END_TIMEOUT).await.map(Some),
            None => Ok(None),
        };
        self.events = None;
        self.shim = None;
        ended
    }

    /// Ends the machine, if there is one, at once: its guest gets no time to write its data.
    pub(super) async fn end_machine(&mut self) {
        if let Some(shim) = &self.shim {
            // A stopped shim would not read the request.
            shim.wake();
            // If the shim does not comply, `release` kills it, proven by pid and start time.
            if shim.end().await.is_ok() {
                let _ = tokio::time::timeout(stop::END_TIMEOUT, shim.ended()).await;
            }
        }
        self.events = None;
        self.shim = None;
    }

    /// Gives back what the machine held and records the VM's new state. Processes that do not end still use the VM's
    /// disk: then the VM is recorded as failed, keeps its claim on the shim, and the error says so.
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
                done = Err(Failure::new(failure.code, left).cause(failure.to_string()).hint(HELD_HINT));
            }
        }
        self.save_or_log().await;
        failpoint::hit("down.saved").await;
        done
    }

    /// Whether the VM is down and a process of its last machine may still run: it did not end when it was killed.
    pub(super) async fn has_remains(&self) -> bool {
        !self.row.state.is_live() && holds_machine(&self.parts, &self.row.id).await
    }

    /// Ends those processes, as the step should have that took the VM down.
    pub(super) async fn end_remains(&mut self) -> Result<(), Failure> {
        self.down(VmState::Stopped, None).await
    }

    /// Records that a VM without a machine is stopped, because its first start was called off.
    pub(super) async fn mark_stopped(&mut self) {
        self.row.state = VmState::Stopped;
        self.save_or_log().await;
    }

    /// Builds the failure of a start, with the evidence and with hints.
    pub(super) fn not_ready(&self, code: Code, why: String) -> Failure {
        let name = &self.row.name;
        let failure = Failure::new(code, format!("VM {name} did not become ready")).cause(why);
        self.with_console(failure).hint(format!("`banger vm delete {name}` deletes it"))
    }

    /// Builds the failure of a wait for services: the VM runs, but its services are not up.
    pub(super) fn not_booted(&self, why: String) -> Failure {
        let name = &self.row.name;
        let failure = Failure::new(Code::Timeout, format!("VM {name} runs, but its services are not up")).cause(why);
        self.with_console(failure)
            .hint(format!("`banger vm exec {name} -- CMD` works meanwhile, `banger vm stop {name}` stops it"))
    }

    /// Adds the last lines of the console to a failure.
    pub(super) fn with_console(&self, mut failure: Failure) -> Failure {
        let lines = console::last_lines(&self.parts.layout.vm(&self.row.id));
        if !lines.is_empty() {
            failure = failure.cause(format!("its console ended with:\n    {}", lines.join("\n    ")));
        }
        failure.hint(format!("`banger vm logs {}` shows its whole console", self.row.name))
    }
}

/// Returns the state that follows from a machine's end, and the reason to record, if any.
pub(super) fn outcome(record: &ExitRecord) -> (VmState, Option<String>) {
    match record.cause {
        ExitCause::Poweroff | ExitCause::Ended | ExitCause::Killed => (VmState::Stopped, None),
        ExitCause::GuestFailed | ExitCause::VmmFailed => (VmState::Failed, Some(sanitized(&record.reason))),
    }
}

/// Returns the addresses at which ports are published.
pub(super) fn published_at(opened: &[Opened]) -> Vec<Publish> {
    opened.iter().map(|opened| opened.at).collect()
}
