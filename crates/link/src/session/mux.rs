//! The rules of multiplexing: a state machine between handles and frames, without I/O.
//!
//! ```text
//! a stream lives from SYN to the first of
//!   RST sent or received
//!   FIN sent and FIN received, and no handle
//! a handle dropped with its writing half open              → RST at once, unsent bytes are dropped
//! a handle dropped after its writing half was closed       → unsent bytes, FIN, then RST unless the peer has finished too
//! ```
//!
//! An RST does not take back what was received before it: the reader gets those bytes, then the error. A peer that
//! finished before the RST is a plain end of file. This is what lets a handle be dropped right after its last write.

use super::{Ended, Role};
use crate::frame::{Header, Kind, MAX_PAYLOAD, WINDOW, flag};
use banger_proto::agent::link::MAX_STREAMS;
use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Context, Poll, Waker},
};

/// Bytes a stream may hold for sending before its writer waits.
pub const OUTBOX: usize = 64 << 10;
/// Streams a host lets its guest have open at once; the guest needs one or two.
pub const MAX_GUEST_STREAMS: usize = 16;
/// Frames of control (resets, pongs) that may wait for a pipe that takes nothing, before the peer is called hostile.
const MAX_CONTROL: usize = 4 * MAX_STREAMS;
/// How much [`Mux::fill`] puts into the buffer of one write to the pipe, about.
const BATCH: usize = 64 << 10;
/// Bytes of the port in front of a stream.
pub(crate) const PORT: usize = 4;

/// How far the writing half of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    Open,
    Asked,
    Sent,
}

/// One stream.
#[expect(clippy::struct_excessive_bools, reason = "four facts that do not exclude each other")]
#[derive(Debug)]
struct Flow {
    /// Received, not yet read.
    inbox: VecDeque<u8>,
    /// What the peer may still send.
    inbox_room: usize,
    /// Read, and not yet given back to the peer as room.
    credit: usize,
    /// The peer's FIN came.
    peer_done: bool,
    /// The peer's RST came.
    reset: bool,
    /// Written, not yet sent.
    outbox: VecDeque<u8>,
    /// What the peer takes now.
    send_room: usize,
    /// SYN or ACK, until the first frame carries it.
    greeting: u16,
    finish: Finish,
    /// No handle any more; only the outbox is left to send.
    orphan: bool,
    /// Stands in `Mux::turn`.
    in_turn: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

impl Flow {
    fn new(greeting: u16, extra_room: u32) -> Self {
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

    fn wake(&mut self) {
        [self.reader.take(), self.writer.take(), self.watcher.take()].into_iter().flatten().for_each(Waker::wake);
    }

    fn owes_room(&self) -> bool {
        self.credit >= WINDOW / 2 && !self.peer_done && !self.orphan
    }

    fn has_frame(&self) -> bool {
        !self.reset
            && (self.owes_room()
                || (!self.outbox.is_empty() && self.send_room > 0)
                || (self.outbox.is_empty() && self.finish == Finish::Asked))
    }
}

/// All streams of a session.
#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    flows: HashMap<u32, Flow>,
    /// How many of `flows` the peer opened.
    opened_by_peer: usize,
    /// Opened by the peer and not yet handed out, oldest first.
    newborn: VecDeque<u32>,
    /// Streams with something to send, one frame a turn.
    turn: VecDeque<u32>,
    control: VecDeque<Header>,
    next_id: u32,
    ended: Option<Ended>,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
}

/// Why [`Mux::open`] gave no stream.
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
            newborn: VecDeque::new(),
            turn: VecDeque::new(),
            control: VecDeque::new(),
            next_id: if role == Role::Host { 1 } else { 2 },
            ended: None,
            driver: None,
            acceptor: None,
        }
    }

    /// A new stream to `port`, its header already in the outbox.
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

    /// The next stream of the peer whose port is known. `Ready(None)` once the session has ended.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<(u32, u32), Ended>> {
        let mut at = 0;
        while let Some(&id) = self.newborn.get(at) {
            let Some(flow) = self.flows.get_mut(&id) else {
                self.newborn.remove(at);
                continue;
            };
            if flow.inbox.len() >= PORT {
                let mut port = [0; PORT];
                port.iter_mut().zip(flow.inbox.drain(..PORT)).for_each(|(to, from)| *to = from);
                self.newborn.remove(at);
                self.give_back(id, PORT);
                return Poll::Ready(Ok((id, u32::from_be_bytes(port))));
            }
            if flow.peer_done || flow.reset {
                self.newborn.remove(at);
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

    /// Takes as much of `bytes` as the outbox has room for.
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

    /// The handle is gone.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.finish == Finish::Asked && !flow.reset && self.ended.is_none() {
            flow.orphan = true;
            flow.inbox = VecDeque::new();
            return;
        }
        let over = flow.reset || (flow.finish == Finish::Sent && flow.peer_done);
        let silent = over || flow.greeting == flag::SYN || self.ended.is_some();
        self.remove(id);
        if !silent {
            self.control.push_back(reset(id));
            self.wake_driver();
        }
    }

    /// Moves frames into `out`, a batch at most, and leaves `waker` to be woken when there are more.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, waker: &Waker) {
        while out.len() < BATCH {
            if let Some(header) = self.control.pop_front() {
                out.extend(header.encode());
            } else if let Some(id) = self.turn.pop_front() {
                self.send(id, out);
            } else {
                self.driver = Some(waker.clone());
                return;
            }
        }
        self.driver = Some(waker.clone());
    }

    fn send(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.in_turn = false;
        if flow.reset {
            return;
        }
        if flow.owes_room() {
            let flags = std::mem::take(&mut flow.greeting);
            let credit = std::mem::take(&mut flow.credit);
            flow.inbox_room += credit;
            let length = u32::try_from(credit).expect("a credit is at most a window");
            out.extend(Header { kind: Kind::Window, flags, stream: id, length }.encode());
        }
        let count = flow.outbox.len().min(flow.send_room).min(MAX_PAYLOAD);
        let finishes = flow.finish == Finish::Asked && count == flow.outbox.len();
        if count > 0 || finishes {
            let flags = std::mem::take(&mut flow.greeting) | if finishes { flag::FIN } else { 0 };
            let length = u32::try_from(count).expect("a payload is small");
            out.extend(Header { kind: Kind::Data, flags, stream: id, length }.encode());
            take(&mut flow.outbox, count, out);
            flow.send_room -= count;
            if let Some(writer) = flow.writer.take() {
                writer.wake();
            }
        }
        if finishes {
            flow.finish = Finish::Sent;
            flow.outbox = VecDeque::new();
            if flow.orphan {
                if !flow.peer_done {
                    out.extend(reset(id).encode());
                }
                self.remove(id);
                return;
            }
        }
        if flow.has_frame() {
            self.take_turn(id);
        }
    }

    /// A frame without payload, or the header of one with payload; what a data frame's payload is for is the answer of
    /// [`Mux::on_payload`].
    pub(crate) fn on_header(&mut self, header: Header) -> Result<(), Ended> {
        let Header { kind, flags, stream: id, length } = header;
        match kind {
            Kind::GoAway => return Err(Ended::GoAway),
            Kind::Ping if flags & flag::ACK != 0 => return Ok(()),
            Kind::Ping => {
                return self.push_control(Header { kind, flags: flag::ACK, stream: 0, length });
            }
            Kind::Data if length as usize > MAX_PAYLOAD => return Err(Ended::Protocol("a frame over the size limit")),
            Kind::Data | Kind::Window => {}
        }
        if flags & flag::SYN != 0 {
            self.on_open(id, if kind == Kind::Window { length } else { 0 })?;
        }
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        if flags & flag::RST != 0 {
            flow.reset = true;
            flow.outbox = VecDeque::new();
            flow.wake();
            if flow.orphan {
                self.remove(id);
            } else if self.newborn.contains(&id) {
                self.wake_acceptor();
            }
            return Ok(());
        }
        match kind {
            Kind::Window if flags & flag::SYN == 0 => {
                flow.send_room = flow.send_room.saturating_add(length as usize).min(u32::MAX as usize);
                if flow.has_frame() {
                    self.take_turn(id);
                }
            }
            Kind::Data => {
                if flow.peer_done && length > 0 {
                    return Err(Ended::Protocol("data after the end of a stream"));
                }
                flow.inbox_room =
                    flow.inbox_room.checked_sub(length as usize).ok_or(Ended::Protocol("a stream over its window"))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_open(&mut self, id: u32, extra_room: u32) -> Result<(), Ended> {
        let odd = id % 2 == 1;
        if id == 0 || odd == (self.role == Role::Host) {
            return Err(Ended::Protocol("a stream number of this end"));
        }
        if self.flows.contains_key(&id) {
            return Err(Ended::Protocol("a stream opened twice"));
        }
        let limit = if self.role == Role::Host { MAX_GUEST_STREAMS } else { MAX_STREAMS };
        if self.opened_by_peer >= limit || self.flows.len() >= MAX_STREAMS {
            return self.push_control(reset(id));
        }
        self.flows.insert(id, Flow::new(flag::ACK, extra_room));
        self.opened_by_peer += 1;
        self.newborn.push_back(id);
        self.wake_acceptor();
        Ok(())
    }

    /// Bytes of a data frame whose header was accepted.
    pub(crate) fn on_payload(&mut self, id: u32, bytes: &[u8]) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.orphan || flow.reset {
            return;
        }
        flow.inbox.extend(bytes);
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
        if self.newborn.contains(&id) {
            self.wake_acceptor();
        }
    }

    /// The FIN of a frame, after its payload.
    pub(crate) fn on_fin(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.peer_done = true;
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
        if self.newborn.contains(&id) {
            self.wake_acceptor();
        }
    }

    /// Ends the session for every handle. The first reason stays.
    pub(crate) fn end(&mut self, reason: &Ended) {
        if self.ended.is_none() {
            self.ended = Some(reason.clone());
        }
        self.control.clear();
        self.turn.clear();
        self.flows.retain(|_, flow| !flow.orphan);
        self.flows.values_mut().for_each(Flow::wake);
        self.wake_acceptor();
    }

    /// Why the session ended, if it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.clone()
    }

    fn push_control(&mut self, header: Header) -> Result<(), Ended> {
        if self.control.len() >= MAX_CONTROL {
            return Err(Ended::Protocol("a flood of pings or streams"));
        }
        self.control.push_back(header);
        self.wake_driver();
        Ok(())
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
        if !flow.in_turn && flow.has_frame() && self.ended.is_none() {
            flow.in_turn = true;
            self.turn.push_back(id);
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

/// Moves the first bytes of a queue, by pieces: byte by byte it is what a guest in software emulation is slowest at.
fn take(queue: &mut VecDeque<u8>, count: usize, into: &mut Vec<u8>) {
    let (front, back) = queue.as_slices();
    let (first, second) = (count.min(front.len()), count.saturating_sub(front.len()));
    into.extend_from_slice(&front[..first]);
    into.extend_from_slice(&back[..second]);
    queue.drain(..count);
}

fn reset(id: u32) -> Header {
    Header { kind: Kind::Data, flags: flag::RST, stream: id, length: 0 }
}
