//! Exec: a WebSocket (`GET /exec`, sub-protocol [`SUBPROTOCOL`]) that carries one process.
//!
//! The agent's answer to the handshake carries the guest's clock ([`CLOCK_HEADER`]). A client that finds it wrong sends
//! the difference in its request, and the agent corrects the clock before the process starts. This happens after a
//! laptop slept or a machine was restored.
//!
//! The client's first message is text, an [`ExecRequest`] in JSON. Everything after it is binary, and the first byte is
//! a [`Channel`] (Kubernetes' v5 remote-command framing, plus signals): stdin, resize and signals go in; stdout, stderr
//! and one status come out; `[255, 0]` half-closes stdin. The server closes with code 1000 after the status.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The WebSocket sub-protocol.
pub const SUBPROTOCOL: &str = "banger.v1";
/// Header of the answer to the handshake: the guest's wall clock in nanoseconds since 1970 (UTC).
pub const CLOCK_HEADER: &str = "banger-clock";
/// Largest difference of a guest's clock that is not corrected, in nanoseconds.
pub const MAX_CLOCK_DRIFT_NS: u64 = 1_000_000_000;
/// Largest [`ExecRequest`] in JSON, in bytes.
pub const MAX_SPEC: usize = 2 << 20;
/// Largest binary message either side may send, in bytes, channel byte included.
pub const MAX_MESSAGE: usize = 256 << 10;

/// Command to run, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments; never joined, never given to a shell. Empty means the user's login shell.
    pub argv: Vec<String>,
    /// Environment, added to the VM's and taking precedence.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; when absent the VM's default, else the user's home.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User (`name`, `uid`, `name:group` or `uid:gid`); when absent the VM's default, else root.
    #[serde(default)]
    pub user: Option<String>,
    /// Size of the terminal to allocate; with one, stdout and stderr come on one channel.
    #[serde(default)]
    pub tty: Option<TerminalSize>,
}

/// The first message of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Command to run.
    #[serde(flatten)]
    pub spec: ExecSpec,
    /// Nanoseconds to add to the guest's clock first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_shift_ns: Option<i64>,
}

/// Correction of a guest's clock that read `guest` at some time between `asked` and `answered` (all in nanoseconds
/// since 1970). `None` unless it was certainly off by more than [`MAX_CLOCK_DRIFT_NS`], however slow the answer was.
pub fn clock_shift(asked: u64, answered: u64, guest: u64) -> Option<i64> {
    let certain = if guest < asked { asked - guest } else { guest.saturating_sub(answered) };
    if certain <= MAX_CLOCK_DRIFT_NS {
        return None;
    }
    let middle = i128::from(asked) + (i128::from(answered) - i128::from(asked)) / 2;
    i64::try_from(middle - i128::from(guest)).ok()
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns (Kubernetes' name for it).
    #[serde(rename = "Width")]
    pub cols: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub rows: u16,
}

/// Channel of a binary message: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Client → server: bytes for the process.
    Stdin = 0,
    /// Server → client.
    Stdout = 1,
    /// Server → client; silent with a terminal.
    Stderr = 2,
    /// Server → client: one [`ExecStatus`] in JSON, the last message.
    Status = 3,
    /// Client → server: a [`TerminalSize`] in JSON.
    Resize = 4,
    /// Client → server: one byte, the signal's number, for the process group.
    Signal = 5,
    /// Either way: one byte, the channel that ends.
    Close = 255,
}

impl Channel {
    /// Channel with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Status,
            4 => Self::Resize,
            5 => Self::Signal,
            255 => Self::Close,
            _ => return None,
        })
    }

    /// Frames a message for this channel.
    pub fn message(self, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(payload.len() + 1);
        message.push(self as u8);
        message.extend_from_slice(payload);
        message
    }
}

/// How the process ended, in the shape of a Kubernetes `metav1.Status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// `Success` or `Failure`.
    pub status: String,
    /// `NonZeroExitCode` when the process ran; `StartFailed` when it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Message for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Details with the exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
}

/// `details` of an [`ExecStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusDetails {
    /// One cause with reason `ExitCode`.
    pub causes: Vec<StatusCause>,
}

/// One cause of an [`ExecStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCause {
    /// Always `ExitCode`.
    pub reason: String,
    /// Exit code in decimal.
    pub message: String,
}

/// Meaning of an [`ExecStatus`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process ran; the code is 128+n when signal n ended it.
    Exited(u8),
    /// The process could not be started: 126 not executable, 127 not found, 125 anything else.
    NotStarted {
        /// Exit code a shell would report.
        code: u8,
        /// Message for a person.
        message: String,
    },
}

impl Outcome {
    /// Exit status that a caller passes on.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(code) | Self::NotStarted { code, .. } => *code,
        }
    }
}

impl From<&Outcome> for ExecStatus {
    fn from(outcome: &Outcome) -> Self {
        let failure = |reason: &str, code: u8, message: String| Self {
            status: "Failure".into(),
            reason: Some(reason.into()),
            message: Some(message),
            details: Some(StatusDetails {
                causes: vec![StatusCause { reason: "ExitCode".into(), message: code.to_string() }],
            }),
        };
        match outcome {
            Outcome::Exited(0) => Self { status: "Success".into(), reason: None, message: None, details: None },
            Outcome::Exited(code) => {
                failure("NonZeroExitCode", *code, format!("command terminated with exit code {code}"))
            }
            Outcome::NotStarted { code, message } => failure("StartFailed", *code, message.clone()),
        }
    }
}

impl TryFrom<&ExecStatus> for Outcome {
    type Error = &'static str;

    /// Reads a status sent by a guest, which may be anything.
    fn try_from(status: &ExecStatus) -> Result<Self, &'static str> {
        if status.status == "Success" {
            return Ok(Self::Exited(0));
        }
        let code = status
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .find(|cause| cause.reason == "ExitCode")
            .and_then(|cause| cause.message.parse::<u8>().ok())
            .filter(|code| *code != 0)
            .ok_or("a failure without an exit code from 1 to 255")?;
        Ok(match status.reason.as_deref() {
            Some("NonZeroExitCode") => Self::Exited(code),
            _ => Self::NotStarted { code, message: status.message.clone().unwrap_or_default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_wire() {
        for outcome in [
            Outcome::Exited(0),
            Outcome::Exited(1),
            Outcome::Exited(255),
            Outcome::NotStarted { code: 127, message: "nope: not found".into() },
        ] {
            let json = serde_json::to_string(&ExecStatus::from(&outcome)).unwrap();
            let status: ExecStatus = serde_json::from_str(&json).unwrap();
            assert_eq!(Outcome::try_from(&status).unwrap(), outcome, "{json}");
        }
    }

    #[test]
    fn a_clock_is_mended_when_it_is_wrong_for_certain() {
        const S: u64 = 1_000_000_000;
        let (asked, answered) = (1000 * S, 1004 * S);
        for guest in [asked - S, asked, asked + 2 * S, answered, answered + S] {
            assert_eq!(clock_shift(asked, answered, guest), None, "{guest}");
        }
        assert_eq!(clock_shift(asked, answered, asked - 8 * S), Some(10_000_000_000));
        assert_eq!(clock_shift(asked, answered, answered + 8 * S), Some(-10_000_000_000));
        assert_eq!(clock_shift(0, 0, u64::MAX), None);
    }

    #[test]
    fn a_request_is_a_spec_with_more_beside_it() {
        let request: ExecRequest = serde_json::from_str(r#"{"argv":["a"]}"#).unwrap();
        assert_eq!((request.spec.argv.as_slice(), request.clock_shift_ns), (&["a".to_owned()][..], None));
        let request = ExecRequest { clock_shift_ns: Some(-5), ..request };
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<ExecRequest>(&json).unwrap(), request);
        assert_eq!(serde_json::from_str::<ExecSpec>(&json).unwrap(), request.spec);
    }

    #[test]
    fn a_lying_status_is_refused() {
        for json in [
            r#"{"status":"Failure"}"#,
            r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"0"}]}}"#,
            r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"256"}]}}"#,
        ] {
            let status: ExecStatus = serde_json::from_str(json).unwrap();
            assert!(Outcome::try_from(&status).is_err(), "{json}");
        }
    }

    #[test]
    fn every_channel_reads_back() {
        for byte in 0..=255_u8 {
            if let Some(channel) = Channel::from_byte(byte) {
                assert_eq!(channel.message(b"x"), vec![byte, b'x']);
            }
        }
    }
}
