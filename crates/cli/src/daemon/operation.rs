//! One operation of the daemon: follows its events, shows its progress, and cancels it on drop.

use crate::{
    exit::{Error, Result},
    http::Connection,
    output::{
        printer::Printer,
        progress::{Progress, TICK},
    },
    signals::Signals,
};
use banger_proto::{
    api::event::Event,
    failure::{Code, Failure},
};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::{Deserialize, de::DeserializeOwned};
use std::{marker::PhantomData, path::PathBuf};

/// Longest event line, in bytes.
const MAX_LINE: usize = 4 << 20;

/// A running operation. The daemon works on it, or holds its lease, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Operation<T> {
    body: Incoming,
    buffer: BytesMut,
    /// Closing it cancels the operation.
    _connection: Connection,
    log: PathBuf,
    result: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Operation<T> {
    pub(crate) fn new(body: Incoming, connection: Connection, log: PathBuf) -> Self {
        Self { body, buffer: BytesMut::new(), _connection: connection, log, result: PhantomData }
    }

    /// Waits for the result, and meanwhile shows progress or passes the events on as JSON. The result comes with
    /// `done`, or with `ready`, after which the lease lasts as long as this value. A signal ends the wait with
    /// [`Error::Interrupted`] and the message `on_interrupt`.
    pub(crate) async fn settle(&mut self, printer: &Printer, signals: &mut Signals, on_interrupt: &str) -> Result<T> {
        signals.guard(on_interrupt, self.watch(printer, &mut Progress::new(printer))).await
    }

    async fn watch(&mut self, printer: &Printer, progress: &mut Progress<'_>) -> Result<T> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                event = self.next(printer) => event?,
                _ = ticks.tick() => {
                    progress.tick();
                    continue;
                }
            };
            match event {
                None | Some(Event::Started { .. }) => {}
                Some(Event::Phase { .. } | Event::Advance { .. } | Event::Layer { .. } | Event::Notice { .. })
                    if printer.events() => {}
                Some(Event::Phase { text }) => progress.phase(&text),
                Some(Event::Advance { done, total }) => progress.advance(done, total),
                Some(Event::Layer { layer, state, done, total }) => progress.layer(&layer, state, done, total),
                Some(Event::Notice { text }) => progress.notice(&text),
                Some(Event::Ready { result } | Event::Done { result }) => return Ok(result),
                Some(Event::Failed { failure }) => return Err(failure.into()),
            }
        }
    }

    /// Returns the next event; `None` for an event that this version does not know. Cancel-safe.
    async fn next(&mut self, printer: &Printer) -> Result<Option<Event<T>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let event = parse(&line)?;
                // The final event is not passed on: the result is the command's own output.
                if !matches!(event, Some(Event::Ready { .. } | Event::Done { .. } | Event::Failed { .. })) {
                    printer.event(&String::from_utf8_lossy(&line));
                }
                return Ok(event);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::new(Code::Internal, "the daemon sent an endless line of progress").into());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(self.lost().cause(error.to_string()).into()),
                None => return Err(self.lost().into()),
            }
        }
    }

    fn lost(&self) -> Failure {
        Failure::new(Code::Unavailable, "the daemon went away before the operation ended")
            .hint(format!("its log is {}", self.log.display()))
    }
}

/// Parses one event line.
fn parse<T: DeserializeOwned>(line: &[u8]) -> std::result::Result<Option<Event<T>>, Failure> {
    #[derive(Deserialize)]
    struct Kind {
        event: String,
    }
    const KNOWN: [&str; 8] = ["started", "phase", "advance", "layer", "notice", "ready", "done", "failed"];
    match serde_json::from_slice(line) {
        Ok(event) => Ok(Some(event)),
        Err(error) => match serde_json::from_slice::<Kind>(line) {
            Ok(kind) if !KNOWN.contains(&kind.event.as_str()) => Ok(None),
            _ => Err(Failure::caused_by(Code::Internal, "the daemon sent progress that does not parse", &error)),
        },
    }
}

/// Whether the daemon answered that the named thing does not exist.
pub(crate) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Failed(Failure { code: Code::NotFound, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_events_are_skipped_and_broken_ones_are_not() {
        assert!(matches!(parse::<u8>(b"{\"event\":\"done\",\"result\":3}\n"), Ok(Some(Event::Done { result: 3 }))));
        assert!(matches!(parse::<u8>(b"{\"event\":\"weather\",\"sun\":true}\n"), Ok(None)));
        assert!(parse::<u8>(b"{\"event\":\"done\"}\n").is_err());
        assert!(parse::<u8>(b"garbage\n").is_err());
    }

    #[test]
    fn a_result_without_content_is_null() {
        let event = parse::<serde::de::IgnoredAny>(b"{\"event\":\"done\",\"result\":null}\n");
        assert!(matches!(event, Ok(Some(Event::Done { .. }))));
    }
}
