//! Frames to be sent.

use super::{BATCH, Finish, Mux, reset};
use crate::frame::{Header, Kind, MAX_PAYLOAD, flag};
use std::{collections::VecDeque, task::Waker};

impl Mux {
    /// Appends frames to `out`, one batch at most, and registers `waker` for more.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, waker: &Waker) {
        while out.len() < BATCH {
            if let Some(header) = self.control.pop_front() {
                out.extend(header.encode());
            } else if let Some(id) = self.send_queue.pop_front() {
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
        flow.queued = false;
        if flow.reset {
            return;
        }
        if flow.owes_room() {
            let flags = std::mem::take(&mut flow.opening_flags);
            let credit = std::mem::take(&mut flow.credit);
            flow.inbox_room += credit;
            let length = u32::try_from(credit).expect("a credit is at most a window");
            out.extend(Header { kind: Kind::Window, flags, stream: id, length }.encode());
        }
        let count = flow.outbox.len().min(flow.send_room).min(MAX_PAYLOAD);
        let finishes = flow.finish == Finish::Asked && count == flow.outbox.len();
        if count > 0 || finishes {
            let flags = std::mem::take(&mut flow.opening_flags) | if finishes { flag::FIN } else { 0 };
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
}

/// Moves the first bytes of a queue in slices: byte by byte would be slow for a guest in software emulation.
fn take(queue: &mut VecDeque<u8>, count: usize, into: &mut Vec<u8>) {
    let (front, back) = queue.as_slices();
    let (first, second) = (count.min(front.len()), count.saturating_sub(front.len()));
    into.extend_from_slice(&front[..first]);
    into.extend_from_slice(&back[..second]);
    queue.drain(..count);
}
