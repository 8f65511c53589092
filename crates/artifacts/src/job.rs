//! Progress reports and cancellation of long-running steps.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Receiver of progress reports. Calls are cheap and may come from any thread.
pub trait Progress: Send + Sync {
    /// Begins a phase, named in words for a person: `downloading linux-image-6.1.0-49-cloud-amd64`.
    fn phase(&self, what: &str);

    /// Reports `done` of `total` units (bytes unless the phase says otherwise); `None` when the total is unknown.
    fn advance(&self, done: u64, total: Option<u64>);

    /// Reports the progress of one of several concurrent parts of a phase.
    fn part(&self, part: &Part<'_>) {
        let _ = part;
    }

    /// Reports something worth knowing that is no failure and ends no phase.
    fn notice(&self, text: &str) {
        let _ = text;
    }
}

/// One of several concurrent parts of a phase, such as a layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Name of the part, unique within its phase.
    pub name: &'a str,
    /// State of the part.
    pub state: PartState,
    /// Bytes done.
    pub done: u64,
    /// Bytes in total.
    pub total: u64,
}

/// State of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartState {
    /// Not begun; others are ahead of it.
    Waiting,
    /// Being downloaded.
    Coming,
    /// Being read from the local cache.
    Cached,
    /// Being read from a file or directory of the user.
    Local,
    /// Complete.
    Done,
}

/// Discards all progress reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _what: &str) {}
    fn advance(&self, _done: u64, _total: Option<u64>) {}
}

/// A flag that tells a running step to stop at its next safe point. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The step was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancel {
    /// Asks the step to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the step was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Fails with [`Cancelled`] once the step was asked to stop; called between units of work.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

/// Formats an error and its causes in one line, for a notice of a step that continues.
pub(crate) fn told(error: &dyn Error) -> String {
    let below = std::iter::successors(error.source(), |&below| below.source());
    below.fold(error.to_string(), |said, error| format!("{said}: {error}"))
}

/// Context of a long step: where it reports to and what cancels it.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Receiver of the progress reports.
    pub progress: &'a dyn Progress,
    /// Cancellation flag.
    pub cancel: &'a Cancel,
}
