//! Splits the bytes from the pipe into frames, whatever the chunks are, without buffering a payload.

use super::{Ended, mux::Mux};
use crate::{
    frame::{HEADER, Header, Kind, flag},
    handshake::{GREETING, Greeting},
};
use banger_proto::agent::link::HELLO;

/// Position in the current frame.
#[derive(Debug)]
enum Position {
    /// Within a header (or, at the guest's end, a repeated hello), of which `have` bytes have arrived.
    Header { have: usize },
    /// Within a payload, of which `left` bytes are still to come.
    Payload { stream: u32, left: usize, fin: bool },
}

/// Parser of the frame stream.
#[derive(Debug)]
pub(crate) struct Parser {
    position: Position,
    head: [u8; GREETING],
    /// The hello that opened this session; repetitions of it are skipped. None at the host's end.
    hello: Option<Greeting>,
}

/// Reason why the session ended, and the bytes that may belong to the next one.
#[derive(Debug)]
pub(crate) struct ParseError {
    pub(crate) reason: Ended,
    pub(crate) rest: Vec<u8>,
}

impl Parser {
    pub(crate) fn new(hello: Option<Greeting>) -> Self {
        Self { position: Position::Header { have: 0 }, head: [0; GREETING], hello }
    }

    /// Parses `bytes` and passes the frames to `mux`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mux: &mut Mux) -> Result<(), ParseError> {
        while let [first, ..] = *bytes {
            match self.position {
                Position::Header { have } => {
                    if have == 0 {
                        self.head[0] = first;
                    }
                    let greets = self.hello.is_some() && self.head[0] == HELLO[0];
                    let want = if greets { GREETING } else { HEADER };
                    let count = bytes.len().min(want - have);
                    self.head[have..have + count].copy_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    self.position = Position::Header { have: have + count };
                    if have + count == want {
                        self.on_head(want, mux).map_err(|reason| {
                            let mut rest = self.head[..want].to_vec();
                            rest.extend(bytes);
                            ParseError { reason, rest }
                        })?;
                    }
                }
                Position::Payload { stream, left, fin } => {
                    let count = left.min(bytes.len());
                    mux.on_payload(stream, &bytes[..count]);
                    bytes = &bytes[count..];
                    self.after_payload(stream, left - count, fin, mux);
                }
            }
        }
        Ok(())
    }

    fn on_head(&mut self, length: usize, mux: &mut Mux) -> Result<(), Ended> {
        self.position = Position::Header { have: 0 };
        if length == GREETING {
            return match (Greeting::parse(HELLO, self.head), self.hello) {
                (Some(again), Some(hello)) if again == hello => Ok(()),
                (Some(_), _) => Err(Ended::Superseded),
                (None, _) => Err(Ended::Protocol("bytes that are no frame")),
            };
        }
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(&self.head[..HEADER]);
        let header = Header::decode(bytes).ok_or(Ended::Protocol("bytes that are no frame"))?;
        mux.on_header(header)?;
        let fin = header.flags & flag::FIN != 0;
        let left = if header.kind == Kind::Data { header.length as usize } else { 0 };
        if matches!(header.kind, Kind::Data | Kind::Window) {
            self.after_payload(header.stream, left, fin, mux);
        }
        Ok(())
    }

    fn after_payload(&mut self, stream: u32, left: usize, fin: bool, mux: &mut Mux) {
        if left > 0 {
            self.position = Position::Payload { stream, left, fin };
            return;
        }
        self.position = Position::Header { have: 0 };
        if fin {
            mux.on_fin(stream);
        }
    }
}
