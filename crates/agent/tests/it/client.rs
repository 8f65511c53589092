//! The host's side of the agent, as small as possible, for the tests and the example.

use banger_link::{Dialer, HostSession, Stream};
use banger_proto::agent::{
    event::{GuestEvent, POWER_ACK},
    exec::{Channel, ExecSpec, ExecStatus, Outcome, SUBPROTOCOL, TerminalSize},
    link::{AGENT_PORT, EVENTS_PORT},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

/// A session with an agent.
pub struct Agent {
    /// Opens streams to it.
    pub dialer: Dialer,
    /// Events that it announces.
    pub events: mpsc::UnboundedReceiver<GuestEvent>,
    /// Driver of the session.
    pub driver: tokio::task::JoinHandle<banger_link::Ended>,
}

impl Agent {
    /// Waits for the agent behind `pipe`. Power events are acknowledged once `acknowledge` is true; never, if its
    /// sender is dropped before.
    pub async fn connect(pipe: UnixStream, acknowledge: watch::Receiver<bool>) -> Self {
        let HostSession { dialer, mut incoming, driver } = HostSession::open(pipe).await.unwrap();
        let driver = tokio::spawn(driver.run());
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(inbound) = incoming.next().await {
                assert_eq!(inbound.port(), EVENTS_PORT);
                let (sender, mut acknowledge, stream) = (sender.clone(), acknowledge.clone(), inbound.accept().await);
                tokio::spawn(async move {
                    let (lines, mut answers) = tokio::io::split(stream);
                    let mut lines = BufReader::new(lines).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let event: GuestEvent = serde_json::from_str(&line).unwrap();
                        let is_word = matches!(event, GuestEvent::Power { .. });
                        let _ = sender.send(event);
                        if is_word && acknowledge.wait_for(|so| *so).await.is_ok() {
                            answers.write_all(POWER_ACK.as_bytes()).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { dialer, events, driver }
    }

    /// Sends a request with a whole body, and returns the status and the whole answer.
    pub async fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        let stream = self.dialer.dial(AGENT_PORT).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "agent");
        let response = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default())
    }

    /// Starts a command.
    pub async fn exec(&self, spec: &ExecSpec) -> Exec {
        let stream = self.dialer.dial(AGENT_PORT).await.unwrap();
        let mut request = "ws://agent/exec".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        let (mut socket, _) = client_async(request, stream).await.unwrap();
        socket.send(Message::text(serde_json::to_string(spec).unwrap())).await.unwrap();
        Exec { socket }
    }

    /// Runs a command without input to its end.
    pub async fn run(&self, spec: &ExecSpec) -> Ran {
        let mut exec = self.exec(spec).await;
        exec.close_stdin().await;
        exec.collect().await
    }
}

/// Result of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// `None` when the stream ended without a status.
    pub outcome: Option<Outcome>,
    /// Everything on channel 1.
    pub stdout: Vec<u8>,
    /// Everything on channel 2.
    pub stderr: Vec<u8>,
}

/// A running command.
pub struct Exec {
    /// The WebSocket.
    pub socket: WebSocketStream<Stream>,
}

impl Exec {
    /// Sends input.
    pub async fn stdin(&mut self, bytes: &[u8]) {
        self.send(Channel::Stdin, bytes).await;
    }

    /// Sends one message.
    pub async fn send(&mut self, channel: Channel, payload: &[u8]) {
        self.socket.send(Message::Binary(channel.message(payload).into())).await.unwrap();
    }

    /// Ends the input.
    pub async fn close_stdin(&mut self) {
        self.send(Channel::Close, &[Channel::Stdin as u8]).await;
    }

    /// Sends a signal.
    pub async fn signal(&mut self, number: u8) {
        self.send(Channel::Signal, &[number]).await;
    }

    /// Sends a size.
    pub async fn resize(&mut self, cols: u16, rows: u16) {
        self.send(Channel::Resize, &serde_json::to_vec(&TerminalSize { cols, rows }).unwrap()).await;
    }

    /// Returns the next message with its channel; `None` at the end.
    pub async fn next(&mut self) -> Option<(Channel, Bytes)> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Binary(message)) => return Some((Channel::from_byte(message[0])?, message.slice(1..))),
                Ok(Message::Close(frame)) => {
                    assert_eq!(u16::from(frame.unwrap().code), 1000);
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads to the end.
    pub async fn collect(mut self) -> Ran {
        let mut ran = Ran::default();
        while let Some((channel, bytes)) = self.next().await {
            match channel {
                Channel::Stdout => ran.stdout.extend(bytes),
                Channel::Stderr => ran.stderr.extend(bytes),
                Channel::Status => {
                    let status: ExecStatus = serde_json::from_slice(&bytes).unwrap();
                    ran.outcome = Some(Outcome::try_from(&status).unwrap());
                }
                other => panic!("{other:?} from the agent"),
            }
        }
        ran
    }

    /// Reads output until it contains `text`, and returns all of it.
    pub async fn read_until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let Some((channel, bytes)) = self.next().await else { panic!("ended before {text:?}: {seen:?}") };
            assert_eq!(channel, Channel::Stdout, "{}", String::from_utf8_lossy(&bytes));
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        seen
    }
}

/// Builds a request for a command with defaults.
pub fn command(argv: &[&str]) -> ExecSpec {
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    ExecSpec { argv, env: BTreeMap::new(), cwd: None, user: None, tty: None }
}

/// Builds a request for a shell script.
pub fn shell(script: &str) -> ExecSpec {
    command(&["sh", "-c", script])
}
