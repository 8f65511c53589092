//! State of one stream: unread data, unsent data, and how far it is closed.

use crate::frame::WINDOW;
use std::{collections::VecDeque, task::Waker};

/// State of a stream's writing half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Open,
    Asked,
    Sent,
}

/// State of one stream.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not exclude each other")]
#[derive(Debug)]
pub(super) struct Flow {
    /// Received bytes that are not yet read.
    pub(super) inbox: VecDeque<u8>,
    /// Bytes that the peer may still send.
    pub(super) inbox_room: usize,
    /// Bytes that were read and not yet given back to the peer as window.
    pub(super) credit: usize,
    /// Whether the peer's FIN has arrived.
    pub(super) peer_done: bool,
    /// Whether the peer's RST has arrived.
    pub(super) reset: bool,
    /// Written bytes that are not yet sent.
    pub(super) outbox: VecDeque<u8>,
    /// Bytes that the peer accepts now.
    pub(super) send_room: usize,
    /// SYN or ACK, until the first frame has carried it.
    pub(super) opening_flags: u16,
    pub(super) finish: Finish,
    /// Whether the handle is dropped and only the outbox is left to send.
    pub(super) orphan: bool,
    /// Whether the stream is in `Mux::send_queue`.
    pub(super) queued: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) watcher: Option<Waker>,
}

impl Flow {
    pub(super) fn new(opening_flags: u16, extra_room: u32) -> Self {
        Self {
            inbox: VecDeque::new(),
            inbox_room: WINDOW,
            credit: 0,
            peer_done: false,
            reset: false,
            outbox: VecDeque::new(),
            send_room: WINDOW.saturating_add(extra_room as usize),
            opening_flags,
            finish: Finish::Open,
            orphan: false,
            queued: false,
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
