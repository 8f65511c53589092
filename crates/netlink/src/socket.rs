//! Netlink socket: one request, its answers, its acknowledgement.

use crate::message::{HEADER, Message};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        sendto, socket_with,
    },
};
use std::io;

const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Receive buffer, in bytes; the kernel sends at most 32 KiB at once.
const BUFFER: usize = 64 << 10;
/// Most attempts to get a list that changes while it is sent.
const LISTINGS: u32 = 10;

/// Netlink socket. A request is answered before the next is sent.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Type of the message.
    pub kind: u16,
    /// Everything after the header.
    pub body: Vec<u8>,
}

/// Header of a message.
#[derive(Debug, Clone, Copy)]
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Socket {
    /// Socket for links, addresses and routes in the network namespace of this thread.
    pub fn route() -> io::Result<Self> {
        Self::open(None, 0)
    }

    /// Socket for nftables.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER), 0)
    }

    /// Socket that receives changes of links, IPv4 addresses and routes.
    pub fn changes() -> io::Result<Self> {
        const LINKS: u32 = 0x1;
        const IPV4_ADDRESSES: u32 = 0x10;
        const IPV4_ROUTES: u32 = 0x40;
        Self::open(None, LINKS | IPV4_ADDRESSES | IPV4_ROUTES)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request that the kernel acknowledges.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        let sequence = self.next();
        self.send(&message.finish(sequence, NLM_F_ACK))?;
        self.collect(sequence).map(drop)
    }

    /// Sends several requests in one write: the kernel carries out all of them even if this process is killed. Each
    /// succeeds or fails on its own; the first error is returned.
    pub fn requests(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let sequences: Vec<u32> = messages
            .into_iter()
            .map(|message| {
                let sequence = self.next();
                bytes.extend(message.finish(sequence, NLM_F_ACK));
                sequence
            })
            .collect();
        self.send(&bytes)?;
        let results: Vec<_> = sequences.into_iter().map(|sequence| self.collect(sequence)).collect();
        results.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Sends a request that is answered with a list.
    pub fn dump(&mut self, message: &Message) -> io::Result<Vec<Reply>> {
        for _ in 0..LISTINGS {
            let sequence = self.next();
            self.send(&message.clone().finish(sequence, 0))?;
            match self.collect(sequence) {
                // The list changed while it was sent; it may be neither the old nor the new one.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Sends a request that is answered with one message.
    pub fn ask(&mut self, message: Message) -> io::Result<Reply> {
        let sequence = self.next();
        self.send(&message.finish(sequence, NLM_F_ACK))?;
        self.collect(sequence)?.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends nftables messages as one transaction. Returns the first error.
    pub fn transaction(&mut self, messages: Vec<Message>) -> io::Result<()> {
        const BEGIN: u16 = 0x10;
        const END: u16 = 0x11;
        // struct nfgenmsg: family, version, and the subsystem of the batch (nftables, big-endian).
        const NFTABLES: [u8; 4] = [0, 0, 0, 10];
        let count = messages.len();
        if count == 0 {
            return Ok(());
        }
        let first = self.next();
        let mut batch = Message::new(BEGIN, 0).fixed(&NFTABLES).finish(first, 0);
        for (index, message) in messages.into_iter().enumerate() {
            let sequence = self.next();
            // Errors are reported without an acknowledgement flag, in order; one that concerns the whole batch has the
            // first sequence number.
            batch.extend(message.finish(sequence, if index + 1 == count { NLM_F_ACK } else { 0 }));
        }
        let last = self.sequence;
        batch.extend(Message::new(END, 0).fixed(&NFTABLES).finish(self.next(), 0));
        self.send(&batch)?;
        self.receive(|header, body| {
            let ours = header.sequence.wrapping_sub(first) <= last.wrapping_sub(first);
            let result = Some(acknowledged(body)).filter(|_| ours && header.kind == NLMSG_ERROR)?;
            (result.is_err() || header.sequence == last).then_some(result)
        })
    }

    /// Reads and discards pending notifications without waiting; returns whether there were any.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match recv(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                // More notifications than the socket can hold: something changed.
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Collects the messages with this sequence number, up to the acknowledgement or the end of the list. Others are
    /// leftovers of an earlier request that failed.
    fn collect(&mut self, sequence: u32) -> io::Result<Vec<Reply>> {
        let (mut replies, mut interrupted) = (Vec::new(), false);
        self.receive(|header, body| {
            if header.sequence != sequence {
                return None;
            }
            interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
            match header.kind {
                NLMSG_DONE if interrupted => Some(Err(io::ErrorKind::Interrupted.into())),
                NLMSG_DONE | NLMSG_ERROR => Some(acknowledged(body)),
                kind => {
                    replies.push(Reply { kind, body: body.to_vec() });
                    None
                }
            }
        })?;
        Ok(replies)
    }

    /// Passes received messages to `take` until it returns a result.
    fn receive(&mut self, mut take: impl FnMut(Header, &[u8]) -> Option<io::Result<()>>) -> io::Result<()> {
        loop {
            let count = loop {
                match recv(&self.fd, &mut self.buffer, RecvFlags::empty()) {
                    Ok((_, count)) => break count,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            };
            let mut rest = &self.buffer[..count.min(BUFFER)];
            while rest.len() >= HEADER {
                let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
                let half = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
                let length = (word(0) as usize).clamp(HEADER, rest.len());
                let header = Header { kind: half(4), flags: half(6), sequence: word(8) };
                if let Some(result) = take(header, &rest[HEADER..length]) {
                    return result;
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn acknowledged(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}
