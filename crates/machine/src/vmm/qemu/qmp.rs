//! QEMU's machine protocol (QMP) on a socket: commands with their responses, and the one event that matters.
//!
//! QEMU is confined and its guest is hostile, so the input is bounded: a line over the limit ends the connection,
//! unknown messages are skipped. <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use super::super::ShutdownReason;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};
use tokio::{io::Interest, net::UnixStream};

/// Longest accepted line, in bytes. Responses to the commands used here have some hundred.
const MAX_LINE: usize = 64 << 10;
/// Upper bound for queued events; QEMU sends one per shutdown.
const MAX_EVENTS: usize = 16;

/// The command QEMU requires after its greeting.
const HANDSHAKE: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// Why a QMP command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU closed the socket: it has ended, or is about to.
    #[error("QEMU closed its monitor")]
    Closed,
    /// The socket failed.
    #[error("the socket to QEMU's monitor failed")]
    Io(#[from] io::Error),
    /// QEMU sent a message that is not part of the protocol.
    #[error("QEMU's monitor said what was not understood: {0}")]
    Malformed(String),
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The reason in QEMU's words.
        reason: String,
    },
}

impl From<QmpError> for io::Error {
    fn from(error: QmpError) -> Self {
        match error {
            QmpError::Io(error) => error,
            error => Self::other(error),
        }
    }
}

/// A QMP connection. Exclusively ours: QEMU is started without any other monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    input: Vec<u8>,
    shutdowns: VecDeque<ShutdownReason>,
}

#[derive(Debug)]
enum Message {
    Answer { id: u64, result: Result<Value, String> },
    Shutdown(ShutdownReason),
    Other,
}

impl Qmp {
    /// Sends the handshake that QEMU expects after its greeting, before QEMU even runs to read it. Both the greeting
    /// and the response are skipped later, like every message that nobody waits for.
    pub fn begin(stream: UnixStream) -> Result<Self, QmpError> {
        let mut unsent = HANDSHAKE;
        while !unsent.is_empty() {
            let sent = rustix::io::write(&stream, unsent).map_err(io::Error::from)?;
            unsent = &unsent[sent..];
        }
        Ok(Self { stream, input: Vec::new(), shutdowns: VecDeque::new() })
    }

    /// Runs one command. When it is cancelled, the next command skips its response.
    pub async fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.send(command, arguments, None).await
    }

    /// Passes a descriptor to QEMU under a name, for a command that takes `fd:NAME`.
    pub async fn send_fd(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.send("getfd", json!({ "fdname": name }), Some(file)).await.map(drop)
    }

    /// Waits for the next shutdown event. Cancel safe.
    pub async fn shutdown(&mut self) -> Result<ShutdownReason, QmpError> {
        loop {
            if let Some(reason) = self.shutdowns.pop_front() {
                return Ok(reason);
            }
            let message = self.message().await?;
            self.keep(&message);
        }
    }

    async fn send(
        &mut self,
        command: &'static str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        // One command at a time, so any number other than the previous one will do.
        let id = NEXT_ID.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": id }));
        self.write(line.as_bytes(), file).await?;
        loop {
            match self.message().await? {
                Message::Answer { id: of, result } if of == id => {
                    return result.map_err(|reason| QmpError::Refused { command, reason });
                }
                message => self.keep(&message),
            }
        }
    }

    /// The descriptor is attached to the first byte.
    async fn write(&self, mut bytes: &[u8], mut file: Option<BorrowedFd<'_>>) -> Result<(), QmpError> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let files = file.as_slice();
                if !files.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(files));
                }
                let bytes = [IoSlice::new(bytes)];
                Ok(sendmsg(self.stream.as_fd(), &bytes, &mut ancillary, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(count) => {
                    bytes = &bytes[count..];
                    file = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn keep(&mut self, message: &Message) {
        if let Message::Shutdown(reason) = message
            && self.shutdowns.len() < MAX_EVENTS
        {
            self.shutdowns.push_back(*reason);
        }
    }

    /// Reads the next line. All state is in `self`, so this is cancel safe.
    async fn message(&mut self) -> Result<Message, QmpError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.input[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=searched + end).collect();
                return parse(&line);
            }
            searched = self.input.len();
            if searched >= MAX_LINE {
                return Err(QmpError::Malformed(format!("a line over {MAX_LINE} bytes")));
            }
            self.stream.readable().await?;
            let mut chunk = [0; 4096];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

static NEXT_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    #[derive(Deserialize)]
    struct Line {
        event: Option<String>,
        data: Option<EventData>,
        id: Option<u64>,
        #[serde(rename = "return")]
        answer: Option<Value>,
        error: Option<Problem>,
    }
    #[derive(Deserialize)]
    struct EventData {
        reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        desc: String,
    }
    // The data of events that are not handled has other shapes.
    let line: Value = serde_json::from_slice(line).map_err(|error| QmpError::Malformed(error.to_string()))?;
    let Ok(line) = serde_json::from_value::<Line>(line) else { return Ok(Message::Other) };
    Ok(match line {
        Line { event: Some(event), data: Some(data), .. } if event == "SHUTDOWN" => {
            Message::Shutdown(match data.reason.as_deref() {
                Some("guest-shutdown") => ShutdownReason::GuestOff,
                Some("guest-reset") => ShutdownReason::GuestReset,
                Some("guest-panic") => ShutdownReason::GuestPanic,
                Some(_) | None => ShutdownReason::Host,
            })
        }
        Line { id: Some(id), error: Some(problem), .. } => Message::Answer { id, result: Err(problem.desc) },
        Line { id: Some(id), answer, .. } => Message::Answer { id, result: Ok(answer.unwrap_or_default()) },
        _ => Message::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::fd::OwnedFd};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22}}, \"capabilities\": [\"oob\"]}}\r\n";
    const SHUTDOWN: &[u8] =
        b"{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\r\n";

    fn pair() -> (Qmp, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Qmp::begin(ours).unwrap(), theirs)
    }

    async fn read_command(lines: &mut BufReader<UnixStream>) -> Value {
        let mut line = String::new();
        lines.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    #[tokio::test]
    async fn events_between_a_command_and_its_answer_are_kept() {
        let (mut qmp, theirs) = pair();
        let peer = async {
            let mut theirs = BufReader::new(theirs);
            assert_eq!(read_command(&mut theirs).await["execute"], "qmp_capabilities");
            theirs.write_all(GREETING).await.unwrap();
            let stop = read_command(&mut theirs).await;
            assert_eq!(stop["execute"], "stop");
            theirs
                .write_all(b"{\"event\": \"RESUME\", \"data\": {\"reason\": 7}}\r\n{\"return\": {}}\r\n")
                .await
                .unwrap();
            for half in SHUTDOWN.chunks(10) {
                theirs.write_all(half).await.unwrap();
                tokio::task::yield_now().await;
            }
            theirs.write_all(format!("{{\"id\": {}, \"return\": {{}}}}\r\n", stop["id"]).as_bytes()).await.unwrap();
            theirs
        };
        let (stopped, _theirs) = tokio::join!(qmp.execute("stop", json!({})), peer);
        stopped.unwrap();
        assert_eq!(qmp.shutdown().await.unwrap(), ShutdownReason::GuestReset);
    }

    #[tokio::test]
    async fn a_refusal_has_the_reason_and_an_end_is_an_end() {
        let (mut qmp, theirs) = pair();
        let peer = async {
            let mut theirs = BufReader::new(theirs);
            read_command(&mut theirs).await;
            let stop = read_command(&mut theirs).await;
            let refusal = format!("{{\"id\": {}, \"error\": {{\"class\": \"G\", \"desc\": \"no\"}}}}\n", stop["id"]);
            theirs.write_all(refusal.as_bytes()).await.unwrap();
            drop(theirs);
        };
        let (refused, ()) = tokio::join!(qmp.execute("stop", json!({})), peer);
        assert_eq!(refused.unwrap_err().to_string(), "QEMU refused stop: no");
        assert!(matches!(qmp.shutdown().await, Err(QmpError::Closed)));
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_collected() {
        let (mut qmp, mut theirs) = pair();
        let flood = async { while theirs.write_all(&[b'x'; 1 << 10]).await.is_ok() {} };
        let failed = tokio::select! {
            result = qmp.shutdown() => result.unwrap_err(),
            () = flood => panic!("the flood ended first"),
        };
        assert!(matches!(failed, QmpError::Malformed(_)), "{failed}");
        assert!(qmp.input.len() <= MAX_LINE + 4096);
    }

    #[tokio::test]
    async fn a_descriptor_travels_with_its_command() {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let (mut qmp, theirs) = pair();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"inside").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let given = file.as_fd();
        let peer = async {
            let mut theirs = theirs;
            let mut first = [0; HANDSHAKE.len()];
            theirs.read_exact(&mut first).await.unwrap();
            let mut bytes = [0; 512];
            let receive = || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut buffers = [io::IoSliceMut::new(&mut bytes)];
                let received = recvmsg(theirs.as_fd(), &mut buffers, &mut ancillary, RecvFlags::empty())?;
                let files = ancillary.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(files) => Some(files),
                    _ => None,
                });
                Ok((received.bytes, files.flatten().collect::<Vec<OwnedFd>>()))
            };
            let (length, files) = theirs.async_io(Interest::READABLE, receive).await.unwrap();
            let command: Value = serde_json::from_slice(&bytes[..length]).unwrap();
            assert_eq!((&command["execute"], &command["arguments"]["fdname"]), (&json!("getfd"), &json!("state")));
            let mut text = String::new();
            std::fs::File::from(files.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside");
            let answer = format!("{{\"id\": {}, \"return\": {{}}}}\n", command["id"]);
            theirs.writable().await.unwrap();
            theirs.try_write(answer.as_bytes()).unwrap();
        };
        let (result, ()) = tokio::join!(qmp.send_fd("state", given), peer);
        result.unwrap();
    }
}
