//! The multiplexer: a state machine between handles and frames, without I/O.
//!
//! ```text
//! a stream lives from SYN to the first of
//!   RST sent or received
//!   FIN sent and FIN received, and no handle
//! a handle dropped with its writing half open              → RST at once, unsent bytes are dropped
//! a handle dropped after its writing half was closed       → unsent bytes, FIN, then RST unless the peer has finished
//! ```
//!
//! An RST does not discard what was received before it: the reader gets those bytes, then the error. If the peer
//! finished before the RST, the reader gets a plain end of file. So a handle may be dropped right after its last write.
//!
//! This file has the handles' side; [`receive`] and [`send`] have the pipe's.

mod bounds;
mod flow;
mod receive;
mod send;

use super::{Ended, Role};
use crate::frame::{Header, Kind, flag};
use banger_proto::agent::link::MAX_STREAMS;
use flow::{Finish, Flow};
use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Context, Poll, Waker},
};

/// Bytes of a stream that may wait to be sent before its writer has to wait.
pub const OUTBOX: usize = 64 << 10;
/// Most streams that a host lets its guest have open at once; the guest needs one or two.
pub const MAX_GUEST_STREAMS: usize = 16;
/// Most control frames (resets, pongs) that may wait for a pipe that accepts no bytes, before the peer is treated as
/// hostile.
const MAX_CONTROL: usize = 4 * MAX_STREAMS;
/// Approximate size of one batch of [`Mux::fill`], in bytes.
const BATCH: usize = 64 << 10;
/// Size of the port at the beginning of a stream, in bytes.
pub(crate) const PORT: usize = 4;

/// All streams of a session.
#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    flows: HashMap<u32, Flow>,
    /// Number of `flows` that the peer opened.
    opened_by_peer: usize,
    /// Streams opened by the peer and not yet accepted, oldest first.
    accept_queue: VecDeque<u32>,
    /// Streams with data to send, served in turn with one frame each.
    send_queue: VecDeque<u32>,
    control: VecDeque<Header>,
    next_id: u32,
    ended: Option<Ended>,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
}

/// Reason why [`Mux::open`] failed.
#[derive(Debug)]
pub(crate) enum OpenError {
    Full,
    Ended(Ended),
}

impl Mux {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            flows: HashMap::new(),
            opened_by_peer: 0,
            accept_queue: VecDeque::new(),
            send_queue: VecDeque::new(),
            control: VecDeque::new(),
            next_id: if role == Role::Host { 1 } else { 2 },
            ended: None,
            driver: None,
            acceptor: None,
        }
    }

    /// Opens a stream to `port` and queues its header.
    pub(crate) fn open(&mut self, port: u32) -> Result<u32, OpenError> {
        if let Some(ended) = &self.ended {
            return Err(OpenError::Ended(ended.clone()));
        }
        let after = self.next_id.checked_add(2);
        let (Some(after), true) = (after, self.flows.len() < MAX_STREAMS) else { return Err(OpenError::Full) };
        let id = std::mem::replace(&mut self.next_id, after);
        let mut flow = Flow::new(flag::SYN, 0);
        flow.outbox.extend(port.to_be_bytes());
        self.flows.insert(id, flow);
        self.take_turn(id);
        Ok(id)
    }

    /// Returns the peer's next stream whose port is known. `Ready(None)` once the session has ended.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<(u32, u32), Ended>> {
        let mut at = 0;
        while let Some(&id) = self.accept_queue.get(at) {
            let Some(flow) = self.flows.get_mut(&id) else {
                self.accept_queue.remove(at);
                continue;
            };
            if flow.inbox.len() >= PORT {
                let mut port = [0; PORT];
                port.iter_mut().zip(flow.inbox.drain(..PORT)).for_each(|(to, from)| *to = from);
                self.accept_queue.remove(at);
                self.give_back(id, PORT);
                return Poll::Ready(Ok((id, u32::from_be_bytes(port))));
            }
            if flow.peer_done || flow.reset {
                self.accept_queue.remove(at);
                self.release(id);
                continue;
            }
            at += 1;
        }
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(ended.clone()));
        }
        self.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Reads into `into`; `Ready(Ok(0))` is the end of the stream. `into` must not be empty.
    pub(crate) fn poll_read(&mut self, id: u32, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let ended = self.ended.is_some();
        let Some(flow) = self.flows.get_mut(&id) else { return Poll::Ready(Ok(0)) };
        if !flow.inbox.is_empty() {
            let count = io::Read::read(&mut flow.inbox, into)?;
            self.give_back(id, count);
            return Poll::Ready(Ok(count));
        }
        if flow.peer_done {
            return Poll::Ready(Ok(0));
        }
        if flow.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        flow.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Queues as much of `bytes` as the outbox has room for.
    pub(crate) fn poll_write(&mut self, id: u32, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ended = self.ended.is_some();
        let flow = match self.flows.get_mut(&id) {
            Some(flow) if !flow.reset && !ended && flow.finish == Finish::Open => flow,
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let count = bytes.len().min(OUTBOX - flow.outbox.len());
        if count == 0 && !bytes.is_empty() {
            flow.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        flow.outbox.extend(&bytes[..count]);
        self.take_turn(id);
        Poll::Ready(Ok(count))
    }

    /// Ready once the peer reset the stream or the session ended, whatever is still unread.
    pub(crate) fn poll_gone(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        let ended = self.ended.is_some();
        match self.flows.get_mut(&id) {
            Some(flow) if !flow.reset && !ended => {
                flow.watcher = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Closes the writing half once everything written is sent.
    pub(crate) fn finish(&mut self, id: u32) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.finish == Finish::Open
        {
            flow.finish = Finish::Asked;
            self.take_turn(id);
        }
    }

    /// Notes that the handle was dropped.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.finish == Finish::Asked && !flow.reset && self.ended.is_none() {
            flow.orphan = true;
            flow.inbox = VecDeque::new();
            return;
        }
        let over = flow.reset || (flow.finish == Finish::Sent && flow.peer_done);
        let silent = over || flow.opening_flags == flag::SYN || self.ended.is_some();
        self.remove(id);
        if !silent {
            self.push_control(reset(id));
        }
    }

    /// Ends the session for all handles. The first reason is kept.
    pub(crate) fn end(&mut self, reason: &Ended) {
        if self.ended.is_none() {
            self.ended = Some(reason.clone());
        }
        self.control.clear();
        self.send_queue.clear();
        self.flows.retain(|_, flow| !flow.orphan);
        self.flows.values_mut().for_each(Flow::wake);
        self.wake_acceptor();
    }

    /// Returns the reason for which the session ended, if it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.clone()
    }

    fn push_control(&mut self, header: Header) {
        self.control.push_back(header);
        self.wake_driver();
    }

    fn give_back(&mut self, id: u32, count: usize) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.credit += count;
        if flow.owes_room() {
            self.take_turn(id);
        }
    }

    fn take_turn(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if !flow.queued && flow.has_frame() && self.ended.is_none() {
            flow.queued = true;
            self.send_queue.push_back(id);
            self.wake_driver();
        }
    }

    fn remove(&mut self, id: u32) {
        if self.flows.remove(&id).is_some() && id.is_multiple_of(2) == (self.role == Role::Host) {
            self.opened_by_peer -= 1;
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn wake_acceptor(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }
}

fn reset(id: u32) -> Header {
    Header { kind: Kind::Data, flags: flag::RST, stream: id, length: 0 }
}
