//! One exec session over a WebSocket, as described in `banger_proto::agent::exec`.
//!
//! The guest is hostile: every message is bounded before it is read, and a breach of the protocol ends the session as a
//! failure of the guest. The guest may report any exit status, but nothing else.

use crate::{
    exit::{Error, Result},
    guest,
    output::printer::stdout_error,
};
use banger_proto::{
    agent::exec::{
        CLOCK_HEADER, Channel, ExecRequest, ExecSpec, ExecStatus, MAX_MESSAGE, MAX_SPEC, Outcome, SUBPROTOCOL,
        TerminalSize, clock_shift,
    },
    failure::{Code, Failure},
};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use std::{
    collections::VecDeque,
    io,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        handshake::client::{Request, Response},
        protocol::{Role, WebSocketConfig},
    },
};

/// Time limit for the agent to accept a session.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// Most signals and sizes that are queued behind stdin for a guest that does not read.
const MAX_WAITING: usize = 64;

/// Message to the guest besides stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// The terminal was resized.
    Resize(TerminalSize),
    /// A signal for the guest's process group.
    Signal(u8),
    /// The user gives up; with the signal that said so.
    Abandon(u8),
}

/// Reason why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The agent reported how the command ended.
    Outcome(Outcome),
    /// Stdout is a closed pipe.
    ClosedPipe,
    /// Ended by [`Control::Abandon`].
    Abandoned(u8),
}

/// A session whose command was sent to the agent.
#[derive(Debug)]
pub(crate) struct Session<S> {
    socket: WebSocketStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Asks the agent at the other end of `stream` to run `spec`.
    pub(crate) async fn start(stream: S, spec: &ExecSpec) -> Result<Self> {
        // Checked before connecting: a command that is too large must not start a session.
        encoded(spec, None)?;
        let handshake = tokio_tungstenite::client_async_with_config(request()?, stream, Some(limits()));
        let asked = now_ns();
        let (mut socket, response) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake)
            .await
            .map_err(|_| Failure::new(Code::Timeout, "the VM's agent did not accept the session"))?
            .map_err(|error| refused(&error))?;
        let shift = guest_clock(&response).and_then(|guest| clock_shift(asked, now_ns(), guest));
        socket.send(Message::text(encoded(spec, shift)?)).await.map_err(|error| broken(&error))?;
        Ok(Self { socket })
    }

    /// Connects the command to `stdin` (in chunks; the end of the channel is the end of stdin), `control`, `stdout` and
    /// `stderr` until the agent reports how it ended.
    pub(crate) async fn run(
        self,
        stdin: mpsc::Receiver<Bytes>,
        control: mpsc::UnboundedReceiver<Control>,
        stdout: impl AsyncWrite + Unpin,
        stderr: impl AsyncWrite + Unpin,
    ) -> Result<Ended> {
        let (sink, stream) = self.socket.split();
        tokio::select! {
            biased;
            ended = receive(stream, stdout, stderr) => ended,
            signal = send(sink, stdin, control) => Ok(Ended::Abandoned(signal)),
        }
    }
}

/// Reads arbitrary bytes as an agent's messages of an accepted session, for [`crate::fuzzing`].
pub(crate) async fn fuzz_read(data: &[u8]) {
    let pipe = tokio::io::join(data, tokio::io::sink());
    let socket = WebSocketStream::from_raw_socket(pipe, Role::Client, Some(limits())).await;
    let (_, stream) = socket.split();
    let _ = receive(stream, tokio::io::sink(), tokio::io::sink()).await;
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_SPEC + MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Encodes the first message of the session.
fn encoded(spec: &ExecSpec, clock_shift_ns: Option<i64>) -> Result<String> {
    let request = ExecRequest { spec: spec.clone(), clock_shift_ns };
    let text =
        serde_json::to_string(&request).map_err(|error| crate::exit::internal("cannot write the command", &error))?;
    if text.len() > MAX_SPEC {
        let message = format!("the command and its environment are larger than {MAX_SPEC} bytes");
        return Err(Failure::new(Code::Invalid, message).hint("send the data on stdin instead").into());
    }
    Ok(text)
}

/// Returns the guest's clock at the time when the agent accepted the session.
fn guest_clock(response: &Response) -> Option<u64> {
    response.headers().get(CLOCK_HEADER)?.to_str().ok()?.parse().ok()
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends stdin and control messages until the session is abandoned. A broken connection is not reported here, because
/// the agent's last messages before it broke may still be unread.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut stdin: mpsc::Receiver<Bytes>,
    mut control: mpsc::UnboundedReceiver<Control>,
) -> u8 {
    let (mut stdin_open, mut connected) = (true, true);
    let mut waiting = VecDeque::new();
    loop {
        let message = if let Some(control) = waiting.pop_front() {
            encode(control)
        } else {
            tokio::select! {
                biased;
                next = next(&mut control) => match next {
                    Control::Abandon(signal) => return signal,
                    control => encode(control),
                },
                chunk = stdin.recv(), if stdin_open && connected => {
                    stdin_open = chunk.is_some();
                    chunk.map_or_else(|| Channel::Close.message(&[Channel::Stdin as u8]), |chunk| Channel::Stdin.message(&chunk))
                }
            }
        };
        if !connected {
            continue;
        }
        // A guest that does not read delays stdin, as intended, but must not delay the user's abandonment.
        let sending = sink.send(Message::binary(message));
        tokio::pin!(sending);
        connected = loop {
            tokio::select! {
                biased;
                sent = &mut sending => break sent.is_ok(),
                next = next(&mut control) => match next {
                    Control::Abandon(signal) => return signal,
                    control if waiting.len() < MAX_WAITING => waiting.push_back(control),
                    _ => {}
                },
            }
        };
    }
}

/// Returns the next control message; pending for ever once all senders are gone.
async fn next(control: &mut mpsc::UnboundedReceiver<Control>) -> Control {
    match control.recv().await {
        Some(control) => control,
        None => std::future::pending().await,
    }
}

fn encode(control: Control) -> Vec<u8> {
    match control {
        Control::Signal(signal) | Control::Abandon(signal) => Channel::Signal.message(&[signal]),
        Control::Resize(size) => Channel::Resize.message(&serde_json::to_vec(&size).unwrap_or_default()),
    }
}

/// Writes the guest's output until the agent reports how the command ended.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    mut stdout: impl AsyncWrite + Unpin,
    mut stderr: impl AsyncWrite + Unpin,
) -> Result<Ended> {
    loop {
        let message = match stream.next().await {
            Some(Ok(Message::Binary(message))) => message,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
                return Err(cut_off(reason).into());
            }
            Some(Ok(_)) => return Err(protocol_error("a message that is not binary").into()),
            Some(Err(error)) => return Err(broken(&error).into()),
            None => return Err(cut_off(None).into()),
        };
        let Some((channel, payload)) = message.split_first() else {
            return Err(protocol_error("an empty message").into());
        };
        match Channel::from_byte(*channel) {
            Some(Channel::Stdout) => match write(&mut stdout, payload).await {
                Ok(()) => {}
                Err(Error::Pipe) => return Ok(Ended::ClosedPipe),
                Err(error) => return Err(error),
            },
            // As for any program, a closed stderr is no reason to end.
            Some(Channel::Stderr) => drop(write(&mut stderr, payload).await),
            Some(Channel::Status) => return outcome(payload).map(Ended::Outcome).map_err(Error::from),
            Some(Channel::Close) => {}
            Some(Channel::Stdin | Channel::Resize | Channel::Signal) | None => {
                return Err(protocol_error(&format!("a message on channel {channel}")).into());
            }
        }
    }
}

async fn write(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    let written: io::Result<()> = async {
        output.write_all(bytes).await?;
        output.flush().await
    }
    .await;
    written.map_err(|error| stdout_error(&error))
}

/// Parses a status; a code for "not started" other than a shell's becomes 125.
fn outcome(payload: &[u8]) -> std::result::Result<Outcome, Failure> {
    let status: ExecStatus = serde_json::from_slice(payload).map_err(|error| {
        protocol_error("a status that does not parse").cause(guest::excerpt(error.to_string().as_bytes()))
    })?;
    match Outcome::try_from(&status).map_err(protocol_error)? {
        Outcome::NotStarted { code, message } if !matches!(code, 126 | 127) => {
            Ok(Outcome::NotStarted { code: 125, message })
        }
        outcome => Ok(outcome),
    }
}

fn request() -> Result<Request> {
    let mut request = "ws://localhost/exec"
        .into_client_request()
        .map_err(|error| crate::exit::internal("cannot ask for a session", &error))?;
    request.headers_mut().insert("sec-websocket-protocol", hyper::header::HeaderValue::from_static(SUBPROTOCOL));
    Ok(request)
}

/// Failure of a refused session, in the agent's own words if it sent any.
fn refused(error: &tungstenite::Error) -> Failure {
    let body = match error {
        tungstenite::Error::Http(response) => response.body().as_deref().unwrap_or_default(),
        _ => &[],
    };
    guest::refused(body).unwrap_or_else(|| Failure::caused_by(Code::Guest, "the VM's agent refused the session", error))
}

fn broken(error: &tungstenite::Error) -> Failure {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ResetWithoutClosingHandshake) => cut_off(None),
        tungstenite::Error::Io(error) => cut_off(Some(error.to_string())),
        error => protocol_error("something outside the protocol").cause(error.to_string()),
    }
}

fn cut_off(reason: Option<String>) -> Failure {
    let failure = Failure::new(Code::Guest, "the guest ended the session without saying how the command ended");
    match reason {
        Some(reason) => failure.cause(reason),
        None => failure.cause("the connection to the VM's agent closed: the VM may be going down"),
    }
}

fn protocol_error(what: &str) -> Failure {
    Failure::new(Code::Guest, "the guest broke the exec protocol").cause(format!("it sent {what}"))
}
