//! The shim's status and its watchers. The status is folded from the messages, and every watcher gets every message.

use super::control::{ShimMessage, ShimStatus};
use banger_proto::{agent::boot::Init, framing};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::broadcast;

/// Number of messages a watcher may be behind; one that is further behind is dropped, and may connect again.
const BACKLOG: usize = 128;

/// An encoded message, shared by all watchers.
pub(super) type Frame = std::sync::Arc<[u8]>;

/// The status and the watchers.
#[derive(Debug)]
pub(super) struct Hub {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    status: ShimStatus,
    watchers: broadcast::Sender<(Frame, Last)>,
    last: Option<Frame>,
}

/// Whether this is the last message.
pub(super) type Last = bool;

impl Hub {
    pub(super) fn new(started: Instant, status: ShimStatus) -> Self {
        let state = State { status, watchers: broadcast::channel(BACKLOG).0, last: None };
        Self { started, state: Mutex::new(state) }
    }

    /// Milliseconds since the shim started.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Applies a message to the status and sends it to every watcher.
    pub(super) fn publish(&self, message: &ShimMessage) {
        let mut state = self.lock();
        state.status.apply(message);
        let last = matches!(message, ShimMessage::Ended(_));
        let frame = frame(message);
        if last {
            state.last = Some(frame.clone());
        }
        // There may be no watcher.
        let _ = state.watchers.send((frame, last));
    }

    /// Changes a part of the status that no message carries.
    pub(super) fn amend(&self, change: impl FnOnce(&mut ShimStatus)) {
        change(&mut self.lock().status);
    }

    /// The init system of the guest, if the agent of this boot is ready.
    pub(super) fn ready_init(&self) -> Option<Init> {
        self.lock().status.ready.as_ref().map(|ready| ready.init)
    }

    /// The first frames for a new watcher, and its receiver for what follows.
    pub(super) fn watch(&self) -> (Frame, Option<Frame>, broadcast::Receiver<(Frame, Last)>) {
        let state = self.lock();
        (frame(&ShimMessage::Status(state.status.clone())), state.last.clone(), state.watchers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Encodes a message. All its parts are bounded (a line from the guest is the largest), so it always fits a frame.
fn frame(message: &ShimMessage) -> Frame {
    framing::encode(message).expect("a shim's messages are smaller than a frame").into()
}
