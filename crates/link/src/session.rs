//! One session: the streams between two handshakes.
//!
//! `mux` has the state and the rules, and does no I/O; `driver` moves bytes between it and the pipe; `stream`, `dial`
//! and `inbound` have the handles.

pub(crate) mod dial;
pub(crate) mod driver;
pub(crate) mod inbound;
pub(crate) mod mux;
pub(crate) mod parse;
pub(crate) mod stream;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// End of the pipe. The host opens streams with odd numbers, the guest with even ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Host,
    Guest,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The other end closed the pipe, because the VMM is gone.
    #[error("the guest channel was closed")]
    Closed,
    /// The pipe failed.
    #[error("the guest channel failed: {0}")]
    Pipe(io::ErrorKind),
    /// The other end sent bytes that are no frame, or broke a rule of the protocol.
    #[error("the guest channel carried nonsense: {0}")]
    Protocol(&'static str),
    /// The other end ended the session.
    #[error("the other end of the guest channel ended the session")]
    GoAway,
    /// A hello with another nonce came, because the host starts over (guest's end only).
    #[error("the host opened another session")]
    Superseded,
    /// This end dropped the driver.
    #[error("the session was dropped")]
    Dropped,
}

/// State shared by a session's driver and its handles.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<mux::Mux>>);

impl Shared {
    pub(crate) fn new(mux: mux::Mux) -> Self {
        Self(Arc::new(Mutex::new(mux)))
    }

    /// No code panics while it holds the lock, so a poisoned lock is used as it is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, mux::Mux> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
