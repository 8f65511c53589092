//! One exec session, from its first message to its last.

use super::{
    super::{Context, RunsIn},
    KILL_DELAY, LINGER,
    group::Group,
    plan,
    spawn::{self, Started},
    terminal::Terminal,
};
use crate::boot;
use banger_link::Stream;
use banger_proto::agent::{
    event::GuestEvent,
    exec::{Channel, ExecRequest, ExecStatus, MAX_MESSAGE, MAX_SPEC, Outcome, TerminalSize},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    future::Future, io, os::unix::process::ExitStatusExt, pin::pin, process::ExitStatus, rc::Rc, time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::{mpsc, watch},
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

type Socket = WebSocketStream<Stream>;
type Sink = SplitSink<Socket, Message>;

/// Time limit for the client's first message.
const SPEC_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the client to close after the status.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of one read from the process.
const CHUNK: usize = 32 << 10;
/// Most input messages that are queued for a process that does not read; beyond, the client has to wait.
const INPUT_QUEUE: usize = 4;
/// Most bytes that are forwarded from pipes that outlive their command: the most that a pipe can hold.
const MAX_LATE: usize = 1 << 20;

/// Runs the whole session.
pub(super) async fn run(context: Rc<Context>, stream: Stream, early: Vec<u8>, asked_ms: u64) {
    let gone = stream.gone();
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE)
        .max_message_size(Some(MAX_SPEC))
        .max_frame_size(Some(MAX_SPEC));
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let started = match first_message(&mut source).await {
        Ok(Some(request)) => start(&context, request, asked_ms),
        Ok(None) => return,
        Err(outcome) => Err(outcome),
    };
    let outcome = match started {
        Ok(started) => pump(&context, started, &mut sink, &mut source, gone).await,
        Err(outcome) => Some(outcome),
    };
    if let Some(outcome) = outcome
        && finish(&mut sink, &mut source, &outcome).await.is_some()
        && let Ok(mut socket) = sink.reunite(source)
    {
        // Dropping a stream without a shutdown resets it, and unsent data is lost.
        let _ = socket.get_mut().shutdown().await;
    }
}

/// Reads the first message; `None` if the client left before.
async fn first_message(source: &mut SplitStream<Socket>) -> Result<Option<ExecRequest>, Outcome> {
    let bad = |message: String| Outcome::NotStarted { code: 125, message };
    match timeout(SPEC_TIMEOUT, source.next()).await {
        Ok(Some(Ok(Message::Text(text)))) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| bad(format!("the exec request does not parse: {error}"))),
        Ok(Some(Ok(_))) => Err(bad("the first message is not the exec request".to_owned())),
        Ok(Some(Err(_)) | None) => Ok(None),
        Err(_) => Err(bad("no exec request came".to_owned())),
    }
}

fn start(context: &Context, request: ExecRequest, asked_ms: u64) -> Result<Started, Outcome> {
    if let (Some(shift), RunsIn::Machine) = (request.clock_shift_ns, context.guest.runs_in)
        && let Err(error) = boot::shift_clock(shift)
    {
        boot::say(&format!("the clock cannot be mended: {error}"));
    }
    let plan = plan::resolve(request.spec, &context.guest)?;
    let number = context.exec_number.get() + 1;
    context.exec_number.set(number);
    let group =
        match context.guest.runs_in {
            RunsIn::Machine => Some(Group::make(number).map_err(|error| Outcome::NotStarted {
                code: 125,
                message: format!("cannot make a cgroup: {error}"),
            })?),
            RunsIn::Hosted => None,
        };
    let started = spawn::start(&plan, group)?;
    if !context.exec_announced.replace(true) {
        context.announcer.announce(&GuestEvent::Exec { asked_ms, started_ms: boot::boottime_ms() });
    }
    Ok(started)
}

/// Transfers data until the process has ended and its output is delivered. `None` if the client is gone.
async fn pump(
    context: &Rc<Context>,
    started: Started,
    sink: &mut Sink,
    source: &mut SplitStream<Socket>,
    gone: impl Future<Output = ()> + Unpin,
) -> Option<Outcome> {
    let Started { mut child, pid, terminal, group } = started;
    let terminal = terminal.map(Rc::new);
    let stdin = child.stdin.take();
    let mut output = Output::new(terminal.clone(), child.stdout.take(), child.stderr.take());
    let ended = supervise(Rc::clone(context), child);

    let delivered = tokio::select! {
        delivered = deliver(&mut output, sink, ended.clone()) => delivered,
        () = read_client(source, stdin, terminal, pid) => None,
        () = gone => None,
    };
    if delivered.is_none() {
        spawn_local(abandon(pid, group, ended, output));
    }
    delivered.map(outcome_of)
}

/// Waits for the process in a task of its own, and counts it while it runs.
fn supervise(context: Rc<Context>, mut child: Child) -> watch::Receiver<Option<ExitStatus>> {
    let (sender, receiver) = watch::channel(None);
    context.execs.set(context.execs.get() + 1);
    spawn_local(async move {
        // A failed wait has no status; SIGKILL stands for it.
        let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
        context.execs.set(context.execs.get() - 1);
        let _ = sender.send(Some(status));
    });
    receiver
}

/// Ends a process whose client is gone.
///
/// Its output is discarded meanwhile, so that output during its cleanup does not kill it.
async fn abandon(pid: Pid, group: Option<Group>, mut ended: watch::Receiver<Option<ExitStatus>>, mut output: Output) {
    let drain = spawn_local(async move {
        while output.is_open() {
            output.next().await;
        }
    });
    let running = ended.borrow().is_none();
    if running {
        let _ = kill_process_group(pid, Signal::HUP);
        // A stopped group would not handle it.
        let _ = kill_process_group(pid, Signal::CONT);
        if group.is_none() {
            let _ = timeout(KILL_DELAY, ended.wait_for(Option::is_some)).await;
        } else {
            sleep(KILL_DELAY).await;
        }
    }
    let still_running = ended.borrow().is_none();
    let killed = group.as_ref().map(Group::kill);
    if still_running && !matches!(killed, Some(Ok(()))) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    // The group's directory can be removed when it is empty, which takes a moment.
    let _ = timeout(KILL_DELAY, ended.wait_for(Option::is_some)).await;
    drain.abort();
    drop(group);
}

fn outcome_of(status: ExitStatus) -> Outcome {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    Outcome::Exited(u8::try_from(code).unwrap_or(255))
}

/// Output of the process.
struct Output {
    terminal: Option<Rc<Terminal>>,
    stdout: Piped<ChildStdout>,
    stderr: Piped<ChildStderr>,
}

/// A pipe of the process until its end, with the message that is being read from it: the buffer is sent without a copy.
struct Piped<P> {
    pipe: Option<P>,
    channel: Channel,
    message: BytesMut,
}

/// Sends output until the process and its pipes have ended, or the pipes are silent. `None` if the client is gone.
async fn deliver(
    output: &mut Output,
    sink: &mut Sink,
    mut ended: watch::Receiver<Option<ExitStatus>>,
) -> Option<ExitStatus> {
    let mut late = 0;
    loop {
        let status = *ended.borrow();
        let open = output.is_open();
        if let Some(status) = status
            && (!open || late > MAX_LATE)
        {
            return Some(status);
        }
        let next = output.next();
        let message = if status.is_some() {
            let Ok(message) = timeout(LINGER, next).await else { return status };
            message
        } else {
            tokio::select! {
                biased;
                message = next, if open => message,
                changed = ended.wait_for(Option::is_some) => {
                    changed.ok()?;
                    continue;
                }
            }
        };
        if let Some(message) = message {
            if status.is_some() {
                late += message.len();
            }
            sink.send(Message::Binary(message)).await.ok()?;
        }
    }
}

impl Output {
    fn new(terminal: Option<Rc<Terminal>>, stdout: Option<ChildStdout>, stderr: Option<ChildStderr>) -> Self {
        Self { terminal, stdout: Piped::new(stdout, Channel::Stdout), stderr: Piped::new(stderr, Channel::Stderr) }
    }

    fn is_open(&self) -> bool {
        self.terminal.is_some() || self.stdout.pipe.is_some() || self.stderr.pipe.is_some()
    }

    /// Returns the next piece of output; `None` once for each stream that ends. Cancel-safe.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(terminal) = &self.terminal {
            let mut bytes = vec![0; CHUNK];
            let count = terminal.read(&mut bytes).await.unwrap_or(0);
            if count == 0 {
                self.terminal = None;
                return None;
            }
            return Some(Channel::Stdout.message(&bytes[..count]).into());
        }
        tokio::select! {
            message = self.stdout.next() => message,
            message = self.stderr.next() => message,
        }
    }
}

impl<P: tokio::io::AsyncRead + Unpin> Piped<P> {
    fn new(pipe: Option<P>, channel: Channel) -> Self {
        Self { pipe, channel, message: BytesMut::new() }
    }

    /// Returns the next message; pending for ever without a pipe.
    async fn next(&mut self) -> Option<Bytes> {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        self.message.clear();
        self.message.reserve(1 + CHUNK);
        self.message.put_u8(self.channel as u8);
        let count = pipe.read_buf(&mut (&mut self.message).limit(CHUNK)).await.unwrap_or(0);
        if count == 0 {
            self.pipe = None;
            return None;
        }
        Some(self.message.split().freeze())
    }
}

/// Processes the client's messages; returns when the client is gone.
async fn read_client(
    source: &mut SplitStream<Socket>,
    stdin: Option<ChildStdin>,
    terminal: Option<Rc<Terminal>>,
    pid: Pid,
) {
    let (input, bytes) = mpsc::channel(INPUT_QUEUE);
    let mut input = Some(input);
    // Concurrent with this loop, so that signals and sizes are processed while the process does not read.
    let feeder = feed(bytes, stdin, terminal.clone());
    let obey = async {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(message) = message else {
                if message.is_close() || message.is_text() {
                    return;
                }
                continue;
            };
            if message.len() > MAX_MESSAGE || message.is_empty() {
                return;
            }
            let payload = message.slice(1..);
            match Channel::from_byte(message[0]) {
                Some(Channel::Stdin) => {
                    if let Some(input) = &input {
                        // Fails once the process has closed its input: the rest is dropped.
                        let _ = input.send(payload).await;
                    }
                }
                Some(Channel::Close) if payload.first() == Some(&(Channel::Stdin as u8)) => input = None,
                Some(Channel::Resize) => {
                    if let (Some(terminal), Ok(size)) = (&terminal, serde_json::from_slice::<TerminalSize>(&payload)) {
                        terminal.resize(size);
                    }
                }
                Some(Channel::Signal) => send_signal(payload.first(), terminal.as_deref(), pid),
                _ => return,
            }
        }
    };
    let mut feeder = pin!(feeder);
    let mut obey = pin!(obey);
    tokio::select! {
        () = &mut obey => {}
        () = &mut feeder => obey.await,
    }
}

async fn feed(mut bytes: mpsc::Receiver<Bytes>, stdin: Option<ChildStdin>, terminal: Option<Rc<Terminal>>) {
    let written: io::Result<()> = async {
        if let Some(mut stdin) = stdin {
            while let Some(piece) = bytes.recv().await {
                stdin.write_all(&piece).await?;
            }
        } else if let Some(terminal) = terminal {
            while let Some(piece) = bytes.recv().await {
                terminal.write_all(&piece).await?;
            }
            terminal.end_input().await?;
        }
        Ok(())
    }
    .await;
    // A process may close its input.
    drop(written);
}

fn send_signal(number: Option<&u8>, terminal: Option<&Terminal>, pid: Pid) {
    let Some(signal) = number.and_then(|number| Signal::from_named_raw(i32::from(*number))) else { return };
    match terminal {
        Some(terminal) => terminal.signal(signal, pid),
        None => drop(kill_process_group(pid, signal)),
    }
}

/// Sends the status and closes cleanly; a client that does not close is not waited for long.
async fn finish(sink: &mut Sink, source: &mut SplitStream<Socket>, outcome: &Outcome) -> Option<()> {
    let status = serde_json::to_vec(&ExecStatus::from(outcome)).ok()?;
    sink.send(Message::Binary(Channel::Status.message(&status).into())).await.ok()?;
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    sink.send(Message::Close(Some(frame))).await.ok()?;
    let closed = async { while source.next().await.is_some_and(|message| message.is_ok()) {} };
    let _ = timeout(CLOSE_TIMEOUT, closed).await;
    Some(())
}
