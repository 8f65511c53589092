//! Checks of the bounds on what a peer can cost, for tests with hostile peers.

use super::{MAX_CONTROL, MAX_GUEST_STREAMS, Mux, OUTBOX, PORT};
use crate::{frame::WINDOW, session::Role};
use banger_proto::agent::link::MAX_STREAMS;

impl Mux {
    /// Panics if more is held than the crate's documentation says.
    pub(crate) fn assert_bounded(&self) {
        let limit = if self.role == Role::Host { MAX_GUEST_STREAMS } else { MAX_STREAMS };
        assert!(self.flows.len() <= MAX_STREAMS && self.opened_by_peer <= limit, "{} streams", self.flows.len());
        // Beyond the limit, at which nothing more is read from the peer, there can be only the resets of existing
        // handles.
        assert!(self.control.len() <= MAX_CONTROL + MAX_STREAMS, "{} frames of control", self.control.len());
        assert!(
            self.accept_queue.len() <= limit + MAX_STREAMS && self.send_queue.len() <= MAX_STREAMS,
            "queues without an end"
        );
        for flow in self.flows.values() {
            assert!(flow.inbox.len() + flow.credit + flow.inbox_room <= WINDOW, "more than a window: {flow:?}");
            assert!(flow.outbox.len() <= OUTBOX + PORT, "more than an outbox: {flow:?}");
        }
    }
}
