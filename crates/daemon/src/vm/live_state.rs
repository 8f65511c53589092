//! The live state of a VM: what its task publishes to those who only watch it.
//!
//! The row alone is not enough. Between the two halves of a restart, and while a start probes the host, a VM is down
//! although somebody waits for it to run. And a VM that runs again may have another machine than the watched one.

use banger_proto::api::vm::VmState;
use tokio::sync::watch;

/// State of a VM as its task publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveState {
    /// State in the row.
    pub(super) state: VmState,
    /// Whether a step that brings the VM up is in progress or about to begin.
    pub(super) coming_up: bool,
    /// Number of its machines, and of attempts to make one, that have ended since this daemon started.
    pub(super) ends: u64,
}

impl LiveState {
    pub(super) fn of(state: VmState, coming_up: bool) -> Self {
        Self { state, coming_up, ends: 0 }
    }

    /// Returns the state to show. A VM that is down only until a start gets on is shown as starting.
    pub(super) fn shown(self) -> VmState {
        if self.coming_up && !self.state.is_live() { VmState::Starting } else { self.state }
    }
}

/// Subscription to the changes of a VM's state and facts.
#[derive(Debug)]
pub(crate) struct StateWatch {
    live: Option<watch::Receiver<LiveState>>,
    /// Value of [`LiveState::ends`] when the subscription began.
    ends: u64,
}

impl StateWatch {
    pub(super) fn of(live: Option<watch::Receiver<LiveState>>) -> Self {
        let ends = live.as_ref().map_or(0, |live| live.borrow().ends);
        Self { live, ends }
    }

    /// Whether the VM has, or may have, the VMM that it had when the subscription began, or the next VMM if it had
    /// none. `false` for a deleted VM, and for a VM that was restarted meanwhile, however late this is called.
    pub(crate) fn is_live(&mut self) -> bool {
        let Some(live) = &mut self.live else { return false };
        let is_there = live.has_changed().is_ok();
        let now = *live.borrow_and_update();
        is_there && now.shown().is_live() && now.ends == self.ends
    }

    /// Waits for the next change; for ever when there will be none.
    pub(crate) async fn changed(&mut self) {
        if let Some(live) = &mut self.live
            && live.changed().await.is_ok()
        {
            return;
        }
        self.live = None;
        std::future::pending::<()>().await;
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
            assert_eq!(LiveState::of(state, false).shown(), state);
            let coming = if state.is_live() { state } else { VmState::Starting };
            assert_eq!(LiveState::of(state, true).shown(), coming);
        }
    }

    #[tokio::test]
    async fn who_watches_a_machine_sees_its_end_however_soon_the_next_one_comes() {
        let sender = watch::Sender::new(LiveState::of(VmState::Running, false));
        let mut changes = StateWatch::of(Some(sender.subscribe()));
        assert!(changes.is_live());
        // A restart between two checks.
        sender.send_modify(|live| (live.state, live.coming_up) = (VmState::Stopping, true));
        assert!(changes.is_live());
        sender.send_modify(|live| live.ends += 1);
        sender.send_modify(|live| live.state = VmState::Starting);
        assert!(!changes.is_live());
        // A subscription that begins now watches the new machine.
        let mut next = StateWatch::of(Some(sender.subscribe()));
        assert!(next.is_live());
        drop(sender);
        assert!(!next.is_live(), "it is gone");
        assert!(!StateWatch::of(None).is_live());
    }
}
