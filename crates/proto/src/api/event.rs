//! Progress of one operation, as newline-delimited JSON.

use crate::{failure::Failure, name::OperationId};
use serde::{Deserialize, Serialize};

/// One line of progress. A client ignores events it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<T> {
    /// The first event: the operation's id, which is also in the daemon's log.
    Started {
        /// Id of the operation.
        operation: OperationId,
    },
    /// A phase began, such as `pulling kernel debian-6.1` or `waiting for the agent`.
    Phase {
        /// Text for a person.
        text: String,
    },
    /// Progress of the phase.
    Advance {
        /// Bytes done, or what the phase counts.
        done: u64,
        /// Total, when it is known.
        total: Option<u64>,
    },
    /// Progress of one of several layers that are pulled at once.
    Layer {
        /// First 12 digits of the layer's digest.
        layer: String,
        /// State of the layer.
        state: LayerState,
        /// Bytes done.
        done: u64,
        /// Total bytes.
        total: u64,
    },
    /// A remark that is no failure, such as `no KVM: running in software emulation`.
    Notice {
        /// Text for a person.
        text: String,
    },
    /// The VM runs and its agent answers; the operation continues when the client closes the stream (`--rm`).
    Ready {
        /// Object of the operation.
        result: T,
    },
    /// Last event of an operation that succeeded.
    Done {
        /// Object of the operation.
        result: T,
    },
    /// Last event of an operation that failed.
    Failed {
        /// Why it failed.
        failure: Failure,
    },
}

/// State of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// Other layers come first.
    Waiting,
    /// The layer is being downloaded.
    Downloading,
    /// The layer was in the cache and is being read.
    Cached,
    /// The layer is in the archive or directory that is pulled from, and is being read.
    Local,
    /// The layer is complete.
    Done,
}
