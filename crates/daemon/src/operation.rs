//! One running request: its id, its progress events and its cancellation.
//!
//! Reporting progress never blocks and never fails. A client that reads slowly misses progress but never the result,
//! which does not pass through here.

use crate::failures;
use banger_artifacts::job::{Cancel, Job, Part, PartState, Progress};
use banger_proto::{
    api::event::{Event, LayerState},
    failure::Failure,
    name::OperationId,
};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Largest number of events that wait for a slow client: every state of every layer of the largest image, twice.
pub(crate) const BACKLOG: usize = 4096;
/// Number of waiting events from which on a client misses intermediate progress. It misses the begin and end of
/// something only beyond [`BACKLOG`].
const PROGRESS_BACKLOG: usize = 64;

/// A running request. Clones are the same request.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    id: OperationId,
    cancel: CancellationToken,
    preemption: Preemption,
    lines: Option<mpsc::Sender<Bytes>>,
}

/// Tells a step that another one was requested in its place, and which.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preemption {
    token: CancellationToken,
    by: Arc<OnceLock<&'static str>>,
}

impl Preemption {
    /// Records the operation that was requested. Only the first one counts.
    pub(crate) fn set(&self, by: &'static str) {
        self.by.get_or_init(|| by);
        self.token.cancel();
    }
}

impl Operation {
    /// Begins a request whose events go to `lines`.
    pub(crate) fn watched(lines: mpsc::Sender<Bytes>) -> Self {
        Self::new(Some(lines))
    }

    /// Begins a request that no client watches, such as one of the daemon itself.
    pub(crate) fn unwatched() -> Self {
        Self::new(None)
    }

    fn new(lines: Option<mpsc::Sender<Bytes>>) -> Self {
        let id = crate::random::operation_id();
        Self { id, cancel: CancellationToken::new(), preemption: Preemption::default(), lines }
    }

    /// Returns the request's id, which is also in every log line inside [`Self::span`].
    pub(crate) fn id(&self) -> &OperationId {
        &self.id
    }

    /// Returns the tracing span that carries the id.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::info_span!("request", operation = %self.id)
    }

    /// Returns the token that is cancelled when the client leaves or the step is to end.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits until another step is requested in place of this one, whether or not the client has left.
    pub(crate) async fn preempted(&self) {
        self.preemption.token.cancelled().await;
    }

    /// Whether another step was requested in place of this one.
    pub(crate) fn is_preempted(&self) -> bool {
        self.preemption.token.is_cancelled()
    }

    /// Builds the failure of a step that ended early: `what` was cut short, and by which request.
    pub(crate) fn cut_short(&self, what: &str) -> Failure {
        self.name_preemption(failures::cut_short(what))
    }

    /// Adds that request to a failure whose maker knew only that it was cancelled. Any other failure is returned
    /// unchanged.
    pub(crate) fn explain_cancellation(&self, failure: Failure) -> Failure {
        if failures::is_cancelled(&failure) { self.name_preemption(failure) } else { failure }
    }

    fn name_preemption(&self, failure: Failure) -> Failure {
        match self.preemption.by.get() {
            Some(by) => failure.cause(format!("a {by} of the VM was asked for meanwhile")),
            None => failure,
        }
    }

    /// Returns the same request with a cancellation of its own for one step.
    pub(crate) fn step(&self, cancel: CancellationToken, preemption: Preemption) -> Self {
        Self { id: self.id.clone(), cancel, preemption, lines: self.lines.clone() }
    }

    /// Reports something worth knowing that is no failure.
    pub(crate) fn notice(&self, text: impl Into<String>) {
        self.send(&Event::Notice { text: text.into() });
    }

    /// Reports that a new phase began.
    pub(crate) fn begin(&self, text: impl Into<String>) {
        self.send(&Event::Phase { text: text.into() });
    }

    fn send(&self, event: &Event<()>) {
        if let Event::Phase { text } | Event::Notice { text } = event {
            // Work may run on any thread, so the id cannot come from the current span.
            tracing::info!(parent: None, operation = %self.id, "{text}");
        }
        let Some(lines) = &self.lines else { return };
        let behind = lines.max_capacity() - lines.capacity();
        if behind >= PROGRESS_BACKLOG && is_superseded(event) {
            return;
        }
        // The backlog is full only for a client that does not read; it misses this event.
        let _ = lines.try_send(line(event));
    }
}

impl Progress for Operation {
    fn phase(&self, what: &str) {
        self.begin(what);
    }

    fn advance(&self, done: u64, total: Option<u64>) {
        self.send(&Event::Advance { done, total });
    }

    fn part(&self, part: &Part<'_>) {
        let state = match part.state {
            PartState::Waiting => LayerState::Waiting,
            PartState::Coming => LayerState::Downloading,
            PartState::Cached => LayerState::Cached,
            PartState::Local => LayerState::Local,
            PartState::Done => LayerState::Done,
        };
        self.send(&Event::Layer { layer: part.name.to_owned(), state, done: part.done, total: part.total });
    }

    fn notice(&self, text: &str) {
        self.notice(text);
    }
}

/// Whether the next event of its kind says the same and more.
fn is_superseded(event: &Event<()>) -> bool {
    match event {
        Event::Advance { .. } => true,
        Event::Layer { state: LayerState::Downloading | LayerState::Cached | LayerState::Local, done, .. } => *done > 0,
        _ => false,
    }
}

/// Encodes an event as one line of NDJSON.
pub(crate) fn line<T: serde::Serialize>(event: &Event<T>) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("events serialize");
    line.push(b'\n');
    line.into()
}

/// Runs blocking `work` on the blocking pool, with a [`Job`] that is cancelled by `stop` or when the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(
    progress: Arc<dyn Progress>,
    stop: &CancellationToken,
    work: impl FnOnce(Job<'_>) -> T + Send + 'static,
) -> T {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    // Cancels the work even if this future is dropped.
    let _stop = CancelOnDrop(cancel.clone());
    let mut running = tokio::task::spawn_blocking(move || work(Job { progress: &*progress, cancel: &flag }));
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = stop.cancelled() => {
            cancel.cancel();
            running.await
        }
    };
    match ended {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::failure::Code;

    #[test]
    fn a_client_that_is_behind_misses_how_far_a_layer_is_and_never_what_became_of_it() {
        const LAYERS: usize = 500;
        let (lines, mut receiver) = mpsc::channel(BACKLOG);
        let operation = Operation::watched(lines);
        let names: Vec<String> = (0..LAYERS).map(|number| number.to_string()).collect();
        let tell = |state, done| {
            for name in &names {
                operation.part(&Part { name, state, done, total: 9 });
                operation.advance(done, None);
            }
        };
        for (state, done) in
            [(PartState::Waiting, 0), (PartState::Coming, 0), (PartState::Coming, 5), (PartState::Done, 9)]
        {
            tell(state, done);
        }
        operation.notice("the end");
        drop(operation);
        let mut events = Vec::new();
        while let Ok(line) = receiver.try_recv() {
            events.push(serde_json::from_slice::<serde_json::Value>(&line).unwrap());
        }
        assert_eq!(events.last().unwrap()["text"], "the end");
        let told =
            |state: &str, done: u64| events.iter().filter(|it| it["state"] == state && it["done"] == done).count();
        assert_eq!([told("waiting", 0), told("downloading", 0), told("done", 9)], [LAYERS; 3]);
        assert_eq!(told("downloading", 5), 0, "those beyond the backlog are passed over");
    }

    #[test]
    fn what_was_cancelled_says_by_what_and_what_failed_says_why() {
        let preempted = Preemption::default();
        let step = Operation::unwatched().step(CancellationToken::new(), preempted.clone());
        let cancelled = || failures::cancelled("the pull");
        assert_eq!(step.explain_cancellation(cancelled()), cancelled(), "its client left");
        preempted.set("stop");
        preempted.set("kill");
        let cause = "a stop of the VM was asked for meanwhile";
        assert_eq!(step.explain_cancellation(cancelled()).causes, [cause]);
        assert_eq!(step.cut_short("the start was cut short").causes, [cause]);
        for code in [Code::Unavailable, Code::Conflict] {
            let broken = Failure::new(code, "port 127.0.0.1:80 is taken");
            assert_eq!(step.explain_cancellation(broken.clone()), broken);
        }
    }
}
