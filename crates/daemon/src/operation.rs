//! One running request: its id, who is told how far it is, and how it is told to stop.
//!
//! Telling never blocks and never fails: a client that reads slowly misses progress, never a result, because the
//! result does not travel through here.

use banger_artifacts::job::{Cancel, Job, Part, PartState, Progress};
use banger_proto::{
    api::event::{Event, LayerState},
    name::OperationId,
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Lines of progress a slow client may be behind.
pub(crate) const BACKLOG: usize = 64;

/// A running request. Clones are the same request.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    id: OperationId,
    cancel: CancellationToken,
    lines: Option<mpsc::Sender<Bytes>>,
}

impl Operation {
    /// A request whose progress goes to `lines`.
    pub(crate) fn watched(lines: mpsc::Sender<Bytes>) -> Self {
        Self { id: crate::random::operation_id(), cancel: CancellationToken::new(), lines: Some(lines) }
    }

    /// A request nobody watches, such as what the daemon does by itself.
    pub(crate) fn silent() -> Self {
        Self { id: crate::random::operation_id(), cancel: CancellationToken::new(), lines: None }
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

    /// The same request with another stop: firing it leaves the rest of the request alone.
    pub(crate) fn with_cancel(&self, cancel: CancellationToken) -> Self {
        Self { id: self.id.clone(), cancel, lines: self.lines.clone() }
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
        if let Some(lines) = &self.lines {
            // A full backlog is a client that does not read; it has the choice of what it misses.
            let _ = lines.try_send(line(event));
        }
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
