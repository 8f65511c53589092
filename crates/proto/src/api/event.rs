//! Progress of one operation, as newline-delimited JSON.

use crate::{failure::Failure, name::OperationId};
use serde::{Deserialize, Serialize};

/// One line of progress. A client ignores events it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<T> {
    /// The first event: the operation's id, which also stands in the daemon's log.
    Started {
        /// The id.
        operation: OperationId,
    },
    /// A phase began, such as `pulling kernel debian-6.1` or `waiting for the agent`.
    Phase {
        /// In words a person reads.
        text: String,
    },
    /// How far the phase is.
    Advance {
        /// Bytes (or what the phase says) done.
        done: u64,
        /// Of how many, when that is known.
        total: Option<u64>,
    },
    /// How far one of several layers is that come at once.
    Layer {
        /// The first 12 digits of its digest.
        layer: String,
        /// What is happening to it.
        state: LayerState,
        /// Bytes done.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Something worth saying that fails nothing, such as `no KVM: running in software emulation`.
    Notice {
        /// In words a person reads.
        text: String,
    },
    /// The VM runs and its agent answers; what follows happens when the client closes the stream (`--rm`).
    Ready {
        /// What the operation was about.
        result: T,
    },
    /// The last event of an operation that worked.
    Done {
        /// What the operation was about.
        result: T,
    },
    /// The last event of one that did not.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// What is happening to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// Others come first.
    Waiting,
    /// It is being downloaded.
    Downloading,
    /// It was here already and is being read.
    Cached,
    /// It is here.
    Done,
}
