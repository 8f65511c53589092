//! How a VM stands, for those who only watch it, and where what is asked of it waits.
//!
//! A row says what a VM is now. That is not all there is to know: between the halves of a restart, and while a start looks
//! at the host, a VM is down and somebody waits for it to run; and one that runs again may have another machine than the
//! one that somebody watches.

use super::{VmService, task::Ask};
use banger_proto::{api::vm::VmState, name::VmId};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Requests that may wait at one VM's door.
const MAILBOX: usize = 32;

/// What is known of a VM besides its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Where it is in its life, as its row has it.
    pub(super) state: VmState,
    /// A step is in progress, or about to begin, after which it runs.
    pub(super) coming_up: bool,
    /// How often a machine of its, or the attempt to make one, came to an end, as far as this daemon has seen.
    pub(super) ends: u64,
}

impl Standing {
    pub(super) fn of(state: VmState, coming_up: bool) -> Self {
        Self { state, coming_up, ends: 0 }
    }

    /// Its state, as others see it: what is down only until somebody's start gets on is being started.
    pub(super) fn shown(self) -> VmState {
        if self.coming_up && !self.state.is_live() { VmState::Starting } else { self.state }
    }
}

/// Tells when a VM's state or facts change.
#[derive(Debug)]
pub(crate) struct Changes {
    standing: Option<watch::Receiver<Standing>>,
    /// How many of its machines had ended when this began.
    ends: u64,
}

impl Changes {
    pub(super) fn of(standing: Option<watch::Receiver<Standing>>) -> Self {
        let ends = standing.as_ref().map_or(0, |standing| standing.borrow().ends);
        Self { standing, ends }
    }

    /// Whether the VM has, or may have, the VMM that it had when this began, or the next one if it had none. A VM that is
    /// gone has none. However late somebody looks: a VM that was restarted meanwhile has another.
    pub(crate) fn is_live(&mut self) -> bool {
        let Some(standing) = &mut self.standing else { return false };
        let is_there = standing.has_changed().is_ok();
        let now = *standing.borrow_and_update();
        is_there && now.shown().is_live() && now.ends == self.ends
    }

    /// Waits for the next change; for ever when there will be none.
    pub(crate) async fn changed(&mut self) {
        if let Some(standing) = &mut self.standing
            && standing.changed().await.is_ok()
        {
            return;
        }
        self.standing = None;
        std::future::pending::<()>().await;
    }
}

/// A VM's door, as those who ask something of it see it.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) standing: watch::Receiver<Standing>,
}

/// The other side of a door, until a task takes it: what is asked of a VM that is still being made waits here, and is
/// answered when it is made. Dropped, there is no such door any more.
pub(super) struct Berth {
    service: Arc<VmService>,
    id: VmId,
    sides: Option<(mpsc::Receiver<Ask>, watch::Sender<Standing>)>,
}

impl Berth {
    pub(super) fn new(service: &Arc<VmService>, id: &VmId, standing: Standing) -> Self {
        let (asks, mailbox) = mpsc::channel(MAILBOX);
        let standing = watch::Sender::new(standing);
        service.doors().insert(id.clone(), Door { asks, standing: standing.subscribe() });
        Self { service: service.clone(), id: id.clone(), sides: Some((mailbox, standing)) }
    }

    /// For the task that answers from now on, and that closes the door when the VM is gone.
    pub(super) fn take(mut self) -> (mpsc::Receiver<Ask>, watch::Sender<Standing>) {
        self.sides.take().expect("it is taken once, by whoever has it")
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if self.sides.is_some() {
            self.service.doors().remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_down_and_coming_up_is_shown_as_being_started() {
        let down = [VmState::Created, VmState::Stopped, VmState::Failed];
        let live = [VmState::Starting, VmState::Running, VmState::Stopping];
        for state in down.into_iter().chain(live) {
            assert_eq!(Standing::of(state, false).shown(), state);
            let coming = if state.is_live() { state } else { VmState::Starting };
            assert_eq!(Standing::of(state, true).shown(), coming);
        }
    }

    #[tokio::test]
    async fn who_watches_a_machine_sees_its_end_however_soon_the_next_one_comes() {
        let sender = watch::Sender::new(Standing::of(VmState::Running, false));
        let mut changes = Changes::of(Some(sender.subscribe()));
        assert!(changes.is_live());
        // A restart, between two looks.
        sender.send_modify(|standing| (standing.state, standing.coming_up) = (VmState::Stopping, true));
        assert!(changes.is_live());
        sender.send_modify(|standing| standing.ends += 1);
        sender.send_modify(|standing| standing.state = VmState::Starting);
        assert!(!changes.is_live());
        // Who begins to watch now watches that one.
        let mut next = Changes::of(Some(sender.subscribe()));
        assert!(next.is_live());
        drop(sender);
        assert!(!next.is_live(), "it is gone");
        assert!(!Changes::of(None).is_live());
    }
}
