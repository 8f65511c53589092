//! What can be wrong with a download.

use super::{Address, AddressError};
use crate::job::Cancelled;
use std::{error::Error, io, time::Duration};

/// Why something was not downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There was no connection, or it was gone before there was an answer.
    #[error("cannot connect to {host}")]
    Connect {
        /// `host` or `host:port`.
        host: String,
        /// What the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server did not prove to be who it should be.
    #[error("cannot trust {host}")]
    Tls {
        /// `host` or `host:port`.
        host: String,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server answers `https` without TLS.
    #[error("{host} does not speak TLS")]
    PlainText {
        /// `host` or `host:port`.
        host: String,
    },
    /// Nothing on this host says whom to trust.
    #[error("this host has no certificates to check a server with (the package ca-certificates has them)")]
    NoCertificates,
    /// The answer was not HTTP, or its head had no end.
    #[error("{host} does not answer as a web server does")]
    Protocol {
        /// `host` or `host:port`.
        host: String,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A redirect to where banger does not go.
    #[error("{address} leads to {location:?}, which is refused")]
    Redirect {
        /// Who redirects.
        address: Address,
        /// Where to, cut.
        location: String,
        /// Why not.
        source: AddressError,
    },
    /// Redirects without end.
    #[error("{address} leads from one address to the next, more than {max} times")]
    Redirects {
        /// Where it began.
        address: Address,
        /// Most redirects followed.
        max: usize,
    },
    /// The server has no such thing, or does not give it.
    #[error("{} answers {}{}", .0.address, .0.status, quoted(&.0.excerpt))]
    Status(Box<Refused>),
    /// The server has something of another size.
    #[error("the server announces {announced} bytes, and not {expected}")]
    Announced {
        /// By the server.
        announced: u64,
        /// What it has to be.
        expected: u64,
    },
    /// More than there may be.
    #[error("there are more than {0} bytes")]
    TooLarge(u64),
    /// The end came too early.
    #[error("the server stopped after {received} of {expected} bytes")]
    Short {
        /// Bytes that came.
        received: u64,
        /// Bytes that should have come.
        expected: u64,
    },
    /// The connection broke.
    #[error("the connection broke after {received} bytes")]
    Broken {
        /// Bytes that came.
        received: u64,
        /// What the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nothing comes any more.
    #[error("nothing more came for {} s, after {received} bytes", waited.as_secs_f32())]
    Stalled {
        /// How long.
        waited: Duration,
        /// Bytes that came before.
        received: u64,
    },
    /// Too little comes for it ever to end.
    #[error(
        "only {came} bytes came in {} s, after {received} bytes; less than {least} bytes a second are not waited for",
        waited.as_secs_f32()
    )]
    Slow {
        /// How long.
        waited: Duration,
        /// Bytes that came in this time.
        came: u64,
        /// Bytes that came before.
        received: u64,
        /// Bytes that should come in a second.
        least: u64,
    },
    /// No thread could be had for it, or it died.
    #[error("the thread of the download failed")]
    Thread(#[source] io::Error),
    /// It was told to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// An answer that is not what was asked for.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Who said it.
    pub address: Address,
    /// The status as a number.
    pub code: u16,
    /// The status and what it means: `404 Not Found`.
    pub status: String,
    /// The beginning of what the server had to say.
    pub excerpt: String,
    /// How a caller may say who they are: the values of `WWW-Authenticate`.
    pub challenges: Vec<String>,
    /// When to come again, if the server said it.
    pub retry_after: Option<Duration>,
}

impl FetchError {
    /// Whether another attempt may bring more.
    pub(super) fn is_connection(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// Whether the same request may work in a moment: the network failed, or the server says that it is busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Short { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. } => true,
            Self::Status(refused) => matches!(refused.code, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn quoted(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(": {excerpt:?}") }
}
