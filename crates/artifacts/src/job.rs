//! What a long step reports while it runs, and how it is told to stop.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where a step tells how far it is. Calls are cheap and may come from any thread.
pub trait Progress: Send + Sync {
    /// A new phase began, in words a person reads: `downloading linux-image-6.1.0-49-cloud-amd64`.
    fn phase(&self, what: &str);

    /// `done` of `total` units (bytes unless the phase says otherwise); `None` when the end is not known.
    fn advance(&self, done: u64, total: Option<u64>);

    /// How far one of several parts of a phase is that come at once.
    fn part(&self, part: &Part<'_>) {
        let _ = part;
    }

    /// Something worth saying that fails nothing and ends no phase.
    fn notice(&self, text: &str) {
        let _ = text;
    }
}

/// One of several parts that come at once, such as a layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Tells it from the others.
    pub name: &'a str,
    /// What is happening to it.
    pub state: PartState,
    /// Bytes done.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// What is happening to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartState {
    /// Others come first.
    Waiting,
    /// It is on its way.
    Coming,
    /// It was here already and is being read.
    Cached,
    /// It is here.
    Done,
}

/// Progress nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _what: &str) {}
    fn advance(&self, _done: u64, _total: Option<u64>) {}
}

/// A flag that tells a running step to stop at its next safe point. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The step was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancel {
    /// Asks the step to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// [`Cancelled`] once it was asked to stop; to be called between units of work.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

/// An error with everything below it, for a step that goes on: in one line, as a notice is.
pub(crate) fn told(error: &dyn Error) -> String {
    let below = std::iter::successors(error.source(), |&below| below.source());
    below.fold(error.to_string(), |said, error| format!("{said}: {error}"))
}

/// What every long step is handed.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// Who may stop it.
    pub cancel: &'a Cancel,
}
