//! Received frames: every rule that a peer can break.

use super::{Flow, MAX_CONTROL, MAX_GUEST_STREAMS, Mux, reset};
use crate::{
    frame::{Header, Kind, MAX_PAYLOAD, flag},
    session::{Ended, Role},
};
use banger_proto::agent::link::MAX_STREAMS;
use std::collections::VecDeque;

impl Mux {
    /// Processes a header; the payload of a data frame follows with [`Mux::on_payload`].
    pub(crate) fn on_header(&mut self, header: Header) -> Result<(), Ended> {
        let Header { kind, flags, stream: id, length } = header;
        // A peer must read the answers that it causes, also those to handles that end, before it may send more.
        if self.control.len() >= MAX_CONTROL {
            return Err(Ended::Protocol("a flood of pings or streams"));
        }
        match kind {
            Kind::GoAway => return Err(Ended::GoAway),
            Kind::Ping if flags & flag::ACK != 0 => return Ok(()),
            Kind::Ping => {
                self.push_control(Header { kind, flags: flag::ACK, stream: 0, length });
                return Ok(());
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
            } else if self.accept_queue.contains(&id) {
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
            self.push_control(reset(id));
            return Ok(());
        }
        self.flows.insert(id, Flow::new(flag::ACK, extra_room));
        self.opened_by_peer += 1;
        self.accept_queue.push_back(id);
        self.wake_acceptor();
        Ok(())
    }

    /// Processes payload of a data frame whose header was accepted.
    pub(crate) fn on_payload(&mut self, id: u32, bytes: &[u8]) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.orphan || flow.reset {
            return;
        }
        flow.inbox.extend(bytes);
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
        if self.accept_queue.contains(&id) {
            self.wake_acceptor();
        }
    }

    /// Processes the FIN of a frame, after its payload.
    pub(crate) fn on_fin(&mut self, id: u32) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.peer_done = true;
        if let Some(reader) = flow.reader.take() {
            reader.wake();
        }
        if self.accept_queue.contains(&id) {
            self.wake_acceptor();
        }
    }
}
