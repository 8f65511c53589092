//! Serves one connection: a frame in, a frame out. A frame that is too large or no request ends it.

use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, MAX_REQUEST, Request},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// How long the rest of a frame may take once it has begun, and the sending of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most descriptors attached to one answer.
const MAX_DESCRIPTORS: usize = 2;

/// Reads one request; `None` when the peer has closed the connection.
pub fn read(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut header = [0; HEADER];
    match stream.read(&mut header[..1])? {
        0 => return Ok(None),
        _ => stream.read_exact(&mut header[1..])?,
    }
    let length = framing::body_length(header).map_err(io::Error::other)?;
    if length > MAX_REQUEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request that is too large"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    framing::decode(&body).map(Some).map_err(io::Error::other)
}

/// Serves requests until the peer closes the connection.
pub fn serve(mut stream: &UnixStream, mut carry_out: impl FnMut(Request) -> (Answer, Vec<OwnedFd>)) -> io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    while let Some(request) = read(&mut Frame { stream, until: None })? {
        let (answer, descriptors) = carry_out(request);
        write(&mut stream, &answer, &descriptors)?;
    }
    Ok(())
}

/// Reader of one frame: without a timeout for its first byte, with one for the rest.
struct Frame<'a> {
    stream: &'a UnixStream,
    until: Option<Instant>,
}

impl Read for Frame<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        let count = self.stream.read(buffer)?;
        self.until.get_or_insert_with(|| Instant::now() + TIMEOUT);
        Ok(count)
    }
}

fn write(stream: &mut &UnixStream, answer: &Answer, descriptors: &[OwnedFd]) -> io::Result<()> {
    let bytes = framing::encode(answer).map_err(io::Error::other)?;
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let sent = sendmsg(*stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(&bytes[sent..])
}
