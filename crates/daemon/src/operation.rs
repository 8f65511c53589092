//! One running request: its id, who is told how far it is, and how it is told to stop.
//!
//! Telling never blocks and never fails: a client that reads slowly misses progress, never a result, because the
//! result does not travel through here.

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

/// Lines a slow client may be behind: every state of every layer of the largest image, twice.
pub(crate) const BACKLOG: usize = 4096;
/// Lines after which a slow client misses how far something is. What begins and what ends it misses only beyond [`BACKLOG`].
const PROGRESS_BACKLOG: usize = 64;

/// A running request. Clones are the same request.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    id: OperationId,
    cancel: CancellationToken,
    preemption: Preemption,
    lines: Option<mpsc::Sender<Bytes>>,
}

/// Tells a step that something else is wanted in its place, and what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preemption {
    token: CancellationToken,
    by: Arc<OnceLock<&'static str>>,
}

impl Preemption {
    /// The first one counts.
    pub(crate) fn set(&self, by: &'static str) {
        self.by.get_or_init(|| by);
        self.token.cancel();
    }
}

impl Operation {
    /// A request whose progress goes to `lines`.
    pub(crate) fn watched(lines: mpsc::Sender<Bytes>) -> Self {
        Self::new(Some(lines))
    }

    /// A request nobody watches, such as what the daemon does by itself.
    pub(crate) fn silent() -> Self {
        Self::new(None)
    }

    fn new(lines: Option<mpsc::Sender<Bytes>>) -> Self {
        let id = crate::random::operation_id();
        Self { id, cancel: CancellationToken::new(), preemption: Preemption::default(), lines }
    }

    /// Its id; also in every log line inside [`Self::span`].
    pub(crate) fn id(&self) -> &OperationId {
        &self.id
    }

    /// The span that carries the id into the log.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::info_span!("request", operation = %self.id)
    }

    /// Fires when the client went away, or somebody else ended the step.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Done once something else is wanted in place of the step, whatever became of the client.
    pub(crate) async fn preempted(&self) {
        self.preemption.token.cancelled().await;
    }

    /// Whether something else is wanted in place of the step.
    pub(crate) fn is_preempted(&self) -> bool {
        self.preemption.token.is_cancelled()
    }

    /// The step ended before it was done: `what` of it, and what came in its way.
    pub(crate) fn cut_short(&self, what: &str) -> Failure {
        self.with_blame(failures::cut_short(what))
    }

    /// The same of a failure whose maker knows only that it was cancelled. What failed for another reason stays as it is.
    pub(crate) fn blame(&self, failure: Failure) -> Failure {
        if failures::is_cancelled(&failure) { self.with_blame(failure) } else { failure }
    }

    fn with_blame(&self, failure: Failure) -> Failure {
        match self.preemption.by.get() {
            Some(by) => failure.cause(format!("a {by} of the VM was asked for meanwhile")),
            None => failure,
        }
    }

    /// The same request with other stops: they leave the rest of the request alone.
    pub(crate) fn step(&self, cancel: CancellationToken, preemption: Preemption) -> Self {
        Self { id: self.id.clone(), cancel, preemption, lines: self.lines.clone() }
    }

    /// Something worth saying that fails nothing.
    pub(crate) fn notice(&self, text: impl Into<String>) {
        self.send(&Event::Notice { text: text.into() });
    }

    /// A new phase began.
    pub(crate) fn begin(&self, text: impl Into<String>) {
        self.send(&Event::Phase { text: text.into() });
    }

    fn send(&self, event: &Event<()>) {
        if let Event::Phase { text } | Event::Notice { text } = event {
            // From whatever thread the work is on, so the id does not come from a span.
            tracing::info!(parent: None, operation = %self.id, "{text}");
        }
        let Some(lines) = &self.lines else { return };
        let behind = lines.max_capacity() - lines.capacity();
        if behind >= PROGRESS_BACKLOG && is_superseded(event) {
            return;
        }
        // A full backlog is a client that does not read; it has the choice of what it misses.
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
            PartState::Done => LayerState::Done,
        };
        self.send(&Event::Layer { layer: part.name.to_owned(), state, done: part.done, total: part.total });
    }

    fn notice(&self, text: &str) {
        self.notice(text);
    }
}

/// Whether what comes next says the same and more.
fn is_superseded(event: &Event<()>) -> bool {
    match event {
        Event::Advance { .. } => true,
        Event::Layer { state: LayerState::Downloading | LayerState::Cached, done, .. } => *done > 0,
        _ => false,
    }
}

/// An event as one line of NDJSON.
pub(crate) fn line<T: serde::Serialize>(event: &Event<T>) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("events serialize");
    line.push(b'\n');
    line.into()
}

/// Runs `work`, which blocks, on the blocking pool with a [`Job`] that follows `operation`.
pub(crate) async fn blocking<T: Send + 'static>(
    progress: Arc<dyn Progress>,
    stop: &CancellationToken,
    work: impl FnOnce(Job<'_>) -> T + Send + 'static,
) -> T {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    // Also when nobody waits any more.
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
        let step = Operation::silent().step(CancellationToken::new(), preempted.clone());
        let cancelled = || failures::cancelled("the pull");
        assert_eq!(step.blame(cancelled()), cancelled(), "its client left");
        preempted.set("stop");
        preempted.set("kill");
        let cause = "a stop of the VM was asked for meanwhile";
        assert_eq!(step.blame(cancelled()).causes, [cause]);
        assert_eq!(step.cut_short("the start was cut short").causes, [cause]);
        for code in [Code::Unavailable, Code::Conflict] {
            let broken = Failure::new(code, "port 127.0.0.1:80 is taken");
            assert_eq!(step.blame(broken.clone()), broken);
        }
    }
}
