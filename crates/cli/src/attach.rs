//! Attaches this process's terminal, streams and signals to a command in a VM.

use crate::{
    context::Context,
    exec::{
        session::{Control, Ended, Session},
        stdin,
        stream_writer::StreamWriter,
        terminal::{self, RawMode},
    },
    exit::{Error, Result, Status, internal},
    guest,
    output::printer::Printer,
    signals::{SIGINT, SIGQUIT, Signals},
};
use banger_proto::{
    agent::exec::{ExecSpec, Outcome},
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Two signals within this time end the session; the second does not reach the guest.
const DOUBLE_SIGNAL: Duration = Duration::from_millis(1500);

/// Message for a command that was interrupted before it started.
pub(crate) const UNSTARTED: &str = "interrupted before the command was started";

/// A command to run in a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// Request to the agent, without the terminal.
    pub(crate) spec: ExecSpec,
    /// Whether the command gets a terminal.
    pub(crate) tty: bool,
}

impl Command {
    /// Whether a command gets a terminal: if it was asked for, or if an interactive user wants a shell.
    pub(crate) fn wants_tty(asked: bool, argv: &[String]) -> bool {
        asked || (argv.is_empty() && terminal::is_interactive())
    }
}

/// Runs `command` in the VM `reference` until the command or the session ends.
pub(crate) async fn attach(context: &Context, reference: &str, command: Command, signals: &mut Signals) -> Result {
    let endpoint = signals.guard(UNSTARTED, guest::endpoint(context, reference)).await?;
    attach_to(context, &endpoint, command, signals).await
}

/// Same as [`attach`], in a VM whose agent is known. The command runs in the workspace if neither it nor the VM names a
/// directory.
pub(crate) async fn attach_to(
    context: &Context,
    endpoint: &GuestEndpoint,
    command: Command,
    signals: &mut Signals,
) -> Result {
    let mut spec = command.spec;
    if let Some(workspace) = &endpoint.workspace
        && endpoint.workdir.is_none()
    {
        spec.cwd.get_or_insert_with(|| workspace.guest_path.clone());
    }
    if command.tty {
        spec.tty = Some(terminal::size());
        if let Ok(term) = std::env::var("TERM") {
            spec.env.entry("TERM".into()).or_insert(term);
        }
    }
    let session = signals.guard(UNSTARTED, async { Session::start(guest::call(endpoint).await?, &spec).await }).await?;
    let raw = command.tty && terminal::stdin_is_terminal();
    let raw_mode = raw.then(RawMode::enter).transpose()?;
    let (control, controls) = mpsc::unbounded_channel();
    let running = session.run(stdin::read_stdin(), controls, writer(std::io::stdout())?, writer(std::io::stderr())?);
    let ended = tokio::select! {
        biased;
        ended = running => ended,
        never = pass_signals(signals, &control, command.tty, raw) => never,
    };
    drop(raw_mode);
    conclude(&context.printer, ended?)
}

/// Sends signals and terminal sizes to the session until it ends.
async fn pass_signals(
    signals: &mut Signals,
    control: &mpsc::UnboundedSender<Control>,
    tty: bool,
    raw: bool,
) -> Result<Ended> {
    let mut resized =
        signal(SignalKind::window_change()).map_err(|error| internal("cannot watch the terminal's size", &error))?;
    let mut last: Option<Instant> = None;
    loop {
        // The receiver is dropped only with the session, and this future with it.
        let _ = tokio::select! {
            _ = resized.recv(), if tty => control.send(Control::Resize(terminal::size())),
            signal = signals.next() => control.send(decide(signal, raw, &mut last)),
        };
    }
}

/// Decides what a signal to banger means for the session. On a raw terminal Ctrl-C is a byte, so a signal comes from
/// elsewhere (a closed window, `kill`) and ends the session.
fn decide(signal: u8, raw: bool, last: &mut Option<Instant>) -> Control {
    let is_second = last.replace(Instant::now()).is_some_and(|last| last.elapsed() < DOUBLE_SIGNAL);
    if raw || (is_second && matches!(signal, SIGINT | SIGQUIT)) {
        Control::Abandon(signal)
    } else {
        Control::Signal(signal)
    }
}

/// Wraps a stream of this process for the session's output.
fn writer(stream: impl AsFd) -> Result<StreamWriter> {
    StreamWriter::new(stream).map_err(|error| internal("cannot use stdout and stderr", &error))
}

fn conclude(printer: &Printer, ended: Ended) -> Result {
    match ended {
        Ended::Outcome(outcome) => {
            if let Outcome::NotStarted { code, message } = &outcome {
                printer.failure(&not_started(*code, message), true);
            }
            Ok(Status::Guest(outcome.code()))
        }
        Ended::ClosedPipe => Err(Error::Pipe),
        Ended::Abandoned(signal) => Err(Error::Interrupted {
            signal,
            on_interrupt: "interrupted: left the session; what still runs in the guest gets HUP, then KILL".into(),
        }),
    }
}

/// Converts a shell's exit code for a command that did not start into a failure.
fn not_started(code: u8, message: &str) -> Failure {
    let kind = match code {
        126 => Code::Denied,
        127 => Code::NotFound,
        _ => Code::Guest,
    };
    Failure::new(kind, format!("cannot start the command: {}", guest::excerpt(message.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::SIGTERM;

    #[test]
    fn the_second_interrupt_in_a_row_leaves() {
        let mut last = None;
        assert_eq!(decide(SIGINT, false, &mut last), Control::Signal(SIGINT));
        assert_eq!(decide(SIGINT, false, &mut last), Control::Abandon(SIGINT));
        last = last.map(|last| last.checked_sub(DOUBLE_SIGNAL).unwrap());
        assert_eq!(decide(SIGINT, false, &mut last), Control::Signal(SIGINT));
        assert_eq!(decide(SIGTERM, false, &mut last), Control::Signal(SIGTERM));
    }

    #[test]
    fn on_a_raw_terminal_every_signal_leaves() {
        assert_eq!(decide(SIGTERM, true, &mut None), Control::Abandon(SIGTERM));
    }

    #[test]
    fn a_command_that_did_not_start_keeps_the_shells_code() {
        let printer = Printer::new(false, true);
        let outcome = Outcome::NotStarted { code: 127, message: "nope: not found".into() };
        assert_eq!(conclude(&printer, Ended::Outcome(outcome)).unwrap(), Status::Guest(127));
        for (code, kind) in [(125, Code::Guest), (126, Code::Denied), (127, Code::NotFound)] {
            let failure = not_started(code, "nope");
            assert_eq!((failure.code, failure.message.as_str()), (kind, "cannot start the command: nope"));
        }
    }
}
