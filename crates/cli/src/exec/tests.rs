//! Sessions with an agent that is a WebSocket server at the other end of a socketpair: an honest one, a slow one, and
//! several that break the protocol.

use super::session::{Control, Ended, Session};
use crate::exit::{Error, Result};
use banger_proto::{
    agent::exec::{
        CLOCK_HEADER, Channel, ExecRequest, ExecSpec, ExecStatus, MAX_MESSAGE, MAX_SPEC, Outcome, SUBPROTOCOL,
        TerminalSize,
    },
    failure::{Code, Failure},
};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

type Socket = WebSocketStream<UnixStream>;

/// Time limit of a test; none takes long.
const DEADLINE: Duration = Duration::from_secs(20);

fn spec(argv: &[&str]) -> ExecSpec {
    let argv = argv.iter().map(ToString::to_string).collect();
    ExecSpec { argv, env: std::collections::BTreeMap::new(), cwd: None, user: None, tty: None }
}

/// Accepts a session as the agent does, and reads the command.
async fn accept(stream: UnixStream) -> (Socket, ExecSpec) {
    let (socket, request) = accept_at(stream, None).await;
    (socket, request.spec)
}

/// Same as [`accept`], with the guest's clock at `clock`.
#[expect(clippy::result_large_err, reason = "the library's callback is shaped that way")]
async fn accept_at(stream: UnixStream, clock: Option<&str>) -> (Socket, ExecRequest) {
    let choose = |request: &Request, mut response: Response| {
        assert_eq!(request.uri().path(), "/exec");
        assert_eq!(request.headers()["sec-websocket-protocol"], SUBPROTOCOL);
        response.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
        if let Some(clock) = clock {
            response.headers_mut().insert(CLOCK_HEADER, clock.parse().unwrap());
        }
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, choose).await.unwrap();
    let request = match socket.next().await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    (socket, request)
}

async fn send(socket: &mut Socket, channel: Channel, payload: &[u8]) {
    socket.send(Message::binary(channel.message(payload))).await.unwrap();
}

async fn end(socket: &mut Socket, outcome: Outcome) {
    let status = serde_json::to_vec(&ExecStatus::from(&outcome)).unwrap();
    send(socket, Channel::Status, &status).await;
}

/// Everything that the client received.
#[derive(Debug)]
struct Seen {
    ended: Result<Ended>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Seen {
    fn failure(self) -> Failure {
        match self.ended {
            Err(Error::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }
}

/// A session between `agent` and a client that sends `stdin` and `controls`.
async fn session<F>(agent: impl FnOnce(UnixStream) -> F, stdin: &[Bytes], controls: &[Control]) -> Seen
where
    F: Future<Output = ()> + Send + 'static,
{
    let (client, server) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(agent(server));
    let (stdin_sender, stdin_receiver) = mpsc::channel(2);
    let stdin = stdin.to_vec();
    tokio::spawn(async move {
        for chunk in stdin {
            if stdin_sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    let (control_sender, control_receiver) = mpsc::unbounded_channel();
    for control in controls {
        control_sender.send(*control).unwrap();
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let work = async {
        let session = Session::start(client, &spec(&["cmd"])).await?;
        session.run(stdin_receiver, control_receiver, &mut stdout, &mut stderr).await
    };
    let ended = tokio::time::timeout(DEADLINE, work).await.expect("the session hangs");
    tokio::time::timeout(DEADLINE, agent).await.expect("the agent hangs").unwrap();
    Seen { ended, stdout, stderr }
}

#[tokio::test]
async fn streams_are_exact_separate_and_half_closed() {
    let chunk = Bytes::from((0..=255_u8).cycle().take(100_000).collect::<Vec<_>>());
    let stdin: Vec<Bytes> = vec![chunk; 80];
    let agent = |stream| async {
        let (mut socket, spec) = accept(stream).await;
        assert_eq!(spec.argv, ["cmd"]);
        loop {
            let message = socket.next().await.unwrap().unwrap().into_data();
            match (Channel::from_byte(message[0]), &message[1..]) {
                (Some(Channel::Stdin), bytes) => {
                    send(&mut socket, Channel::Stdout, bytes).await;
                    send(&mut socket, Channel::Stderr, &bytes[..1]).await;
                }
                (Some(Channel::Close), [0]) => break,
                other => panic!("{other:?}"),
            }
        }
        end(&mut socket, Outcome::Exited(42)).await;
    };
    let seen = session(agent, &stdin, &[]).await;
    assert_eq!(seen.ended.unwrap(), Ended::Outcome(Outcome::Exited(42)));
    assert!(seen.stdout == stdin.concat(), "{} bytes came back", seen.stdout.len());
    assert_eq!(seen.stderr, vec![0; 80]);
}

#[tokio::test]
async fn signals_and_sizes_reach_the_agent_in_order() {
    let agent = |stream| async {
        let (mut socket, _) = accept(stream).await;
        let resize = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(&resize[..], b"\x04{\"Width\":100,\"Height\":30}");
        let signal = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(&signal[..], [5, 15]);
        end(&mut socket, Outcome::Exited(143)).await;
    };
    let controls = [Control::Resize(TerminalSize { cols: 100, rows: 30 }), Control::Signal(15)];
    let seen = session(agent, &[], &controls).await;
    assert_eq!(seen.ended.unwrap(), Ended::Outcome(Outcome::Exited(143)));
}

#[tokio::test]
async fn a_guest_that_does_not_read_holds_nobody() {
    let (client, server) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move { accept(server).await });
    let (stdin, stdin_receiver) = mpsc::channel(2);
    let (control, controls) = mpsc::unbounded_channel();
    let session = Session::start(client, &spec(&["sleep"])).await.unwrap();
    let running = tokio::spawn(session.run(stdin_receiver, controls, tokio::io::sink(), tokio::io::sink()));
    // More than any socket buffers: the last message is accepted only if the other end reads, so stop when it does not.
    let chunk = Bytes::from(vec![0; 128 << 10]);
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(200), stdin.send(chunk.clone())).await {}
    control.send(Control::Signal(2)).unwrap();
    control.send(Control::Abandon(2)).unwrap();
    let ended = tokio::time::timeout(DEADLINE, running).await.expect("cannot get out").unwrap();
    assert_eq!(ended.unwrap(), Ended::Abandoned(2));
    drop(agent.await.unwrap());
}

#[tokio::test]
async fn a_reader_that_is_gone_ends_the_session() {
    let (client, server) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move {
        let (mut socket, _) = accept(server).await;
        // Until the client leaves.
        while socket.send(Message::binary(Channel::Stdout.message(b"y\n"))).await.is_ok() {}
    });
    let (_stdin, stdin_receiver) = mpsc::channel(2);
    let (_control, controls) = mpsc::unbounded_channel();
    let (stdout, reader) = tokio::io::duplex(16);
    drop(reader);
    let session = Session::start(client, &spec(&["yes"])).await.unwrap();
    let ended = session.run(stdin_receiver, controls, stdout, tokio::io::sink()).await.unwrap();
    assert_eq!(ended, Ended::ClosedPipe);
    tokio::time::timeout(DEADLINE, agent).await.expect("the agent hangs").unwrap();
}

#[tokio::test]
async fn a_lost_stderr_is_no_reason_to_end() {
    let (client, server) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move {
        let (mut socket, _) = accept(server).await;
        send(&mut socket, Channel::Stderr, b"lost").await;
        send(&mut socket, Channel::Stdout, b"kept").await;
        end(&mut socket, Outcome::Exited(0)).await;
    });
    let (_stdin, stdin_receiver) = mpsc::channel(2);
    let (_control, controls) = mpsc::unbounded_channel();
    let (stderr, reader) = tokio::io::duplex(16);
    drop(reader);
    let mut stdout = Vec::new();
    let session = Session::start(client, &spec(&["x"])).await.unwrap();
    let ended = session.run(stdin_receiver, controls, &mut stdout, stderr).await.unwrap();
    assert_eq!((ended, stdout.as_slice()), (Ended::Outcome(Outcome::Exited(0)), b"kept".as_slice()));
    agent.await.unwrap();
}

/// Every breach of the protocol after an accepted session is the guest's failure.
#[tokio::test]
async fn what_is_outside_the_protocol_is_the_guests_failure() {
    let lying = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"0"}]}}"#;
    let cases: Vec<(&str, Message)> = vec![
        ("text", Message::text("hello")),
        ("empty", Message::binary(Vec::new())),
        ("stdin", Message::binary(Channel::Stdin.message(b"x"))),
        ("unknown channel", Message::binary(vec![99, 1, 2])),
        ("huge", Message::binary(vec![1; MAX_MESSAGE + 1])),
        ("lying status", Message::binary(Channel::Status.message(lying))),
        ("garbage status", Message::binary(Channel::Status.message(b"\xff{"))),
        ("close", Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "bye \u{7}".into() }))),
        ("close without reason", Message::Close(None)),
    ];
    for (case, message) in cases {
        let agent = |stream| async move {
            let (mut socket, _) = accept(stream).await;
            // The client may leave before everything is written.
            let _ = socket.send(message).await;
            while let Some(Ok(_)) = socket.next().await {}
        };
        let failure = session(agent, &[], &[]).await.failure();
        assert_eq!(failure.code, Code::Guest, "{case}: {failure:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_the_guests_failure() {
    let agent = |stream| async {
        let (mut socket, _) = accept(stream).await;
        send(&mut socket, Channel::Stdout, b"before").await;
    };
    let seen = session(agent, &[], &[]).await;
    assert_eq!(seen.stdout, b"before");
    assert_eq!(seen.failure().code, Code::Guest);
}

#[tokio::test]
async fn what_is_no_agent_is_the_guests_failure() {
    for answer in [b"".as_slice(), b"\0\xff\0\xff garbage \r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        let agent = move |mut stream: UnixStream| async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let failure = session(agent, &[], &[]).await.failure();
        assert_eq!(failure.code, Code::Guest, "{failure:?}");
    }
}

#[tokio::test]
async fn an_agent_that_refuses_says_why() {
    let agent = |mut stream: UnixStream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let body = serde_json::to_string(&Failure::new(Code::Unavailable, "going down")).unwrap();
        let head = format!("HTTP/1.1 503 Unavailable\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    };
    let failure = session(agent, &[], &[]).await.failure();
    assert_eq!(failure, Failure::new(Code::Unavailable, "the VM's agent refused").cause("going down"));
}

#[tokio::test]
async fn what_did_not_start_has_a_shells_code_or_ours() {
    for (code, expected) in [(127, 127), (126, 126), (3, 125)] {
        let agent = move |stream| async move {
            let (mut socket, _) = accept(stream).await;
            end(&mut socket, Outcome::NotStarted { code, message: "nope".into() }).await;
        };
        let ended = session(agent, &[], &[]).await.ended.unwrap();
        assert_eq!(ended, Ended::Outcome(Outcome::NotStarted { code: expected, message: "nope".into() }));
    }
}

#[tokio::test]
async fn a_command_that_is_too_large_is_not_sent() {
    let (client, _server) = UnixStream::pair().unwrap();
    let long = "x".repeat(MAX_SPEC);
    match Session::start(client, &spec(&["echo", &long])).await {
        Err(Error::Failed(failure)) => assert_eq!(failure.code, Code::Invalid),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_whose_clock_is_wrong_is_told_by_how_much() {
    const MINUTE: u64 = 60 * 1_000_000_000;
    const HOUR: u64 = 60 * MINUTE;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let now = u64::try_from(now).unwrap();
    for (clock, hours) in [
        (None, 0),
        (Some(now.to_string()), 0),
        (Some((now - HOUR).to_string()), 1),
        (Some((now + HOUR).to_string()), -1),
        (Some("noon".to_owned()), 0),
    ] {
        let agent = async move |stream| {
            let (mut socket, request) = accept_at(stream, clock.as_deref()).await;
            let told = request.clock_shift_ns.unwrap_or(0);
            let expected = hours * HOUR.cast_signed();
            assert!(told.abs_diff(expected) < MINUTE && (hours == 0) == (told == 0), "{clock:?}: {request:?}");
            end(&mut socket, Outcome::Exited(0)).await;
        };
        let seen = session(agent, &[], &[]).await;
        assert!(matches!(seen.ended, Ok(Ended::Outcome(Outcome::Exited(0)))), "{seen:?}");
    }
}
