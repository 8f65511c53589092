//! One stream of a session: what came and was not read, what was written and not sent, and how far its end is.

use crate::frame::WINDOW;
use std::{collections::VecDeque, task::Waker};

/// How far the writing half of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Open,
    Asked,
    Sent,
}

/// One stream.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not exclude each other")]
#[derive(Debug)]
pub(super) struct Flow {
    /// Received, not yet read.
    pub(super) inbox: VecDeque<u8>,
    /// What the peer may still send.
    pub(super) inbox_room: usize,
    /// Read, and not yet given back to the peer as room.
    pub(super) credit: usize,
    /// The peer's FIN came.
    pub(super) peer_done: bool,
    /// The peer's RST came.
    pub(super) reset: bool,
    /// Written, not yet sent.
    pub(super) outbox: VecDeque<u8>,
    /// What the peer takes now.
    pub(super) send_room: usize,
    /// SYN or ACK, until the first frame carries it.
    pub(super) greeting: u16,
    pub(super) finish: Finish,
    /// No handle any more; only the outbox is left to send.
    pub(super) orphan: bool,
    /// Stands in `Mux::turn`.
    pub(super) in_turn: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) watcher: Option<Waker>,
}

impl Flow {
    pub(super) fn new(greeting: u16, extra_room: u32) -> Self {
        Self {
            inbox: VecDeque::new(),
            inbox_room: WINDOW,
            credit: 0,
            peer_done: false,
            reset: false,
            outbox: VecDeque::new(),
            send_room: WINDOW.saturating_add(extra_room as usize),
            greeting,
            finish: Finish::Open,
            orphan: false,
            in_turn: false,
            reader: None,
            writer: None,
            watcher: None,
        }
    }

    pub(super) fn wake(&mut self) {
        [self.reader.take(), self.writer.take(), self.watcher.take()].into_iter().flatten().for_each(Waker::wake);
    }

    pub(super) fn owes_room(&self) -> bool {
        self.credit >= WINDOW / 2 && !self.peer_done && !self.orphan
    }

    pub(super) fn has_frame(&self) -> bool {
        !self.reset
            && (self.owes_room()
                || (!self.outbox.is_empty() && self.send_room > 0)
                || (self.outbox.is_empty() && self.finish == Finish::Asked))
    }
}
