//! A guest in a thread of the test: a hybrid-vsock socket with an agent behind it that knows a few commands.
//!
//! `exit N`, `cat`, `both` (a word on each stream), `wait` (until a signal, then 128+n), `deaf` (no signal ends it),
//! `yes` (until nobody reads), `size` (of the terminal, and again when it changes), `shell` (what an empty command
//! gets), `vanish` (the connection breaks), anything else is not found.

use crate::fake::Background;
use banger_link::vsock::{server_accept, server_port};
use banger_proto::agent::exec::{Channel, ExecSpec, ExecStatus, Outcome, SUBPROTOCOL, TerminalSize};
use futures_util::{SinkExt as _, StreamExt as _};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::net::UnixStream;
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

/// The running agent.
pub(crate) struct Agent {
    specs: Arc<Mutex<Vec<ExecSpec>>>,
    ended: Arc<Mutex<u32>>,
    _server: Background,
}

impl Agent {
    /// Serves at `socket`.
    pub(crate) fn at(socket: &Path) -> Self {
        let (specs, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (seen, count) = (Arc::clone(&specs), Arc::clone(&ended));
        let server = Background::at(socket, async move |listener| {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
                tokio::spawn(async move {
                    // Some tests let the client leave in the middle of a session.
                    let _ = session(stream, seen).await;
                    *count.lock().unwrap() += 1;
                });
            }
        });
        Self { specs, ended, _server: server }
    }

    /// Returns the requested commands.
    pub(crate) fn specs(&self) -> Vec<ExecSpec> {
        self.specs.lock().unwrap().clone()
    }

    /// Returns the number of sessions that have ended.
    pub(crate) fn ended(&self) -> u32 {
        *self.ended.lock().unwrap()
    }
}

type Socket = WebSocketStream<UnixStream>;
type Result<T = ()> = std::result::Result<T, tokio_tungstenite::tungstenite::Error>;

#[expect(clippy::result_large_err, reason = "the library's callback is shaped that way")]
async fn session(mut stream: UnixStream, specs: Arc<Mutex<Vec<ExecSpec>>>) -> Result {
    assert_eq!(server_port(&mut stream).await?, Some(1024));
    server_accept(&mut stream, 7).await?;
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, choose).await?;
    let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("no command") };
    let spec: ExecSpec = serde_json::from_str(&text).unwrap();
    specs.lock().unwrap().push(spec.clone());
    let argv: Vec<&str> = spec.argv.iter().map(String::as_str).collect();
    let outcome = match argv.as_slice() {
        ["exit", code] => Outcome::Exited(code.parse().unwrap()),
        ["cat"] => cat(&mut socket).await?,
        ["both"] => {
            say(&mut socket, Channel::Stdout, b"out\n").await?;
            say(&mut socket, Channel::Stderr, b"err \x1b[1m\n").await?;
            Outcome::Exited(0)
        }
        ["wait"] => wait(&mut socket, false).await?,
        ["deaf"] => wait(&mut socket, true).await?,
        ["yes"] => loop {
            say(&mut socket, Channel::Stdout, &[b'y'; 4096]).await?;
        },
        ["size"] => size(&mut socket, spec.tty).await?,
        [] => shell(&mut socket).await?,
        ["vanish"] => return Ok(()),
        _ => Outcome::NotStarted { code: 127, message: format!("{}: not found \x1b[2J", argv[0]) },
    };
    let status = serde_json::to_vec(&ExecStatus::from(&outcome)).unwrap();
    say(&mut socket, Channel::Status, &status).await?;
    socket.close(None).await
}

async fn say(socket: &mut Socket, channel: Channel, bytes: &[u8]) -> Result {
    socket.send(Message::binary(channel.message(bytes))).await
}

/// Reads the client's next message, channel first.
async fn read_message(socket: &mut Socket) -> Result<(Channel, Vec<u8>)> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(message))) => {
                return Ok((Channel::from_byte(message[0]).unwrap(), message[1..].to_vec()));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Err(tokio_tungstenite::tungstenite::Error::ConnectionClosed),
        }
    }
}

async fn cat(socket: &mut Socket) -> Result<Outcome> {
    loop {
        match read_message(socket).await? {
            (Channel::Stdin, bytes) => say(socket, Channel::Stdout, &bytes).await?,
            (Channel::Close, end) => {
                assert_eq!(end, [0]);
                return Ok(Outcome::Exited(0));
            }
            (Channel::Signal, signal) => return Ok(Outcome::Exited(128 + signal[0])),
            _ => {}
        }
    }
}

async fn wait(socket: &mut Socket, deaf: bool) -> Result<Outcome> {
    say(socket, Channel::Stdout, b"waiting\n").await?;
    loop {
        if let (Channel::Signal, signal) = read_message(socket).await? {
            say(socket, Channel::Stdout, format!("signal {}\n", signal[0]).as_bytes()).await?;
            if !deaf {
                return Ok(Outcome::Exited(128 + signal[0]));
            }
        }
    }
}

async fn size(socket: &mut Socket, tty: Option<TerminalSize>) -> Result<Outcome> {
    let shown = |size: TerminalSize| format!("{}x{}\r\n", size.cols, size.rows);
    say(socket, Channel::Stdout, tty.map_or("no terminal\r\n".into(), shown).as_bytes()).await?;
    loop {
        if let (Channel::Resize, json) = read_message(socket).await? {
            say(socket, Channel::Stdout, shown(serde_json::from_slice(&json).unwrap()).as_bytes()).await?;
            return Ok(Outcome::Exited(0));
        }
    }
}

/// Echoes every byte until `q`.
async fn shell(socket: &mut Socket) -> Result<Outcome> {
    say(socket, Channel::Stdout, b"$ ").await?;
    loop {
        match read_message(socket).await? {
            (Channel::Stdin, bytes) if bytes == b"q" => return Ok(Outcome::Exited(5)),
            (Channel::Stdin, bytes) => say(socket, Channel::Stdout, format!("{bytes:?}").as_bytes()).await?,
            (Channel::Close, _) => return Ok(Outcome::Exited(0)),
            _ => {}
        }
    }
}
