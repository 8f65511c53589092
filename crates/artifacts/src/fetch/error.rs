//! Errors of downloads.

use super::{Address, AddressError, PassedOver, TlsError};
use crate::job::Cancelled;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Error of a download.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection was made, or it broke before there was a response.
    #[error("cannot connect to {host}")]
    Connect {
        /// `host` or `host:port`.
        host: String,
        /// Error of the operating system.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The proxy made no connection.
    #[error("cannot connect to {host} through the proxy {proxy} ({variable}){}", answered(*code))]
    Proxy {
        /// `host` or `host:port`.
        host: String,
        /// `host:port` of the proxy.
        proxy: String,
        /// Environment variable that names it.
        variable: &'static str,
        /// Status it answered with.
        code: Option<u16>,
        /// Error of the connection to it, if it did not answer.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// An environment variable names no proxy.
    #[error("{variable} names no proxy: {why}")]
    ProxySetting {
        /// Environment variable. Its value may have a password in it.
        variable: &'static str,
        /// Reason.
        why: &'static str,
    },
    /// The server's certificate could not be verified, or there was no handshake.
    #[error("{} {host}", if source.is_of_certificate() { "cannot trust" } else { "cannot speak TLS with" })]
    Tls {
        /// `host` or `host:port`.
        host: String,
        /// Cause.
        source: TlsError,
    },
    /// The server wants to know who the client is, and does not accept what it was shown.
    #[error("{host} {}", wanted(shown.as_deref(), passed_over))]
    ClientCertificate {
        /// `host` or `host:port`.
        host: String,
        /// Certificate that was shown.
        shown: Option<PathBuf>,
        /// Files for this host that could not be used.
        passed_over: Vec<PassedOver>,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server answers an `https` request without TLS.
    #[error("{host} does not speak TLS")]
    PlainText {
        /// `host` or `host:port`.
        host: String,
    },
    /// This host has no certificates to verify a server with.
    #[error("this host has no certificates to check a server with (the package ca-certificates has them)")]
    NoCertificates,
    /// The response was not HTTP, or its head had no end.
    #[error("{host} does not answer as a web server does")]
    Protocol {
        /// `host` or `host:port`.
        host: String,
        /// Cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A redirect leads to an address that is refused.
    #[error("{} leads to {location:?}, which is refused", address.shown())]
    Redirect {
        /// Address that redirects.
        address: Address,
        /// Target, truncated.
        location: String,
        /// Reason.
        source: AddressError,
    },
    /// There were too many redirects.
    #[error("{} leads from one address to the next, more than {max} times", address.shown())]
    Redirects {
        /// First address.
        address: Address,
        /// Upper bound of redirects.
        max: usize,
    },
    /// The server answered with another status than success.
    #[error("{} answers {}{}", .0.address.shown(), .0.status, quoted(&.0.excerpt))]
    Status(Box<Refused>),
    /// The server announces another length.
    #[error("the server announces {announced} bytes, and not {expected}")]
    Announced {
        /// Length the server announces.
        announced: u64,
        /// Length it must have.
        expected: u64,
    },
    /// There are more bytes than allowed.
    #[error("there are more than {0} bytes")]
    TooLarge(u64),
    /// The body ended too early.
    #[error("the server stopped after {received} of {expected} bytes")]
    Short {
        /// Bytes received.
        received: u64,
        /// Bytes that should have been received.
        expected: u64,
    },
    /// The connection broke.
    #[error("the connection broke after {received} bytes")]
    Broken {
        /// Bytes received.
        received: u64,
        /// Error of the operating system.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server sends nothing more.
    #[error("nothing more came for {} s, after {received} bytes", waited.as_secs_f32())]
    Stalled {
        /// Length of the wait.
        waited: Duration,
        /// Bytes received before.
        received: u64,
    },
    /// The server sends too slowly.
    #[error(
        "only {came} bytes came in {} s, after {received} bytes; less than {least} bytes a second are not waited for",
        waited.as_secs_f32()
    )]
    Slow {
        /// Length of the wait.
        waited: Duration,
        /// Bytes received in this time.
        came: u64,
        /// Bytes received before.
        received: u64,
        /// Minimum rate, in bytes per second.
        least: u64,
    },
    /// Its thread could not be started, or died.
    #[error("the thread of the download failed")]
    Thread(#[source] io::Error),
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Response with another status than success.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Address that sent it.
    pub address: Address,
    /// Status code.
    pub code: u16,
    /// Status code and reason: `404 Not Found`.
    pub status: String,
    /// Beginning of the response's body.
    pub excerpt: String,
    /// Authentication challenges: the values of `WWW-Authenticate`.
    pub challenges: Vec<String>,
    /// Pause the server asks for with `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl FetchError {
    /// Returns the host, if the failure is about TLS that the host does speak.
    pub(crate) fn tls_host(&self) -> Option<&str> {
        match self {
            Self::Tls { host, source } if source.is_of_tls() => Some(host),
            Self::ClientCertificate { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Whether no connection was made.
    pub(super) fn is_connection(&self) -> bool {
        matches!(self, Self::Connect { .. }) || (matches!(self, Self::Proxy { .. }) && self.is_transient())
    }

    /// Whether the same request may succeed in a moment: the network failed, or the server is busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Short { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. } => true,
            // What a proxy refuses, it refuses again, unless it did not reach the other side.
            Self::Proxy { code, .. } => code.is_none_or(|code| matches!(code, 502..=504)),
            // A connection that broke where it may have said that it misses a certificate.
            Self::ClientCertificate { source, .. } => source.is::<io::Error>(),
            Self::Status(refused) => matches!(refused.code, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn answered(code: Option<u16>) -> String {
    match code {
        None => String::new(),
        Some(407) => ", which wants another login than it was given, or one at all".to_owned(),
        Some(code) => format!(", which answers {code}"),
    }
}

fn wanted(shown: Option<&Path>, passed_over: &[PassedOver]) -> String {
    let none = || "wants a client certificate, and there is none for it".to_owned();
    let mut text = shown.map_or_else(none, |path| format!("does not accept the client certificate {}", path.display()));
    for unfit in passed_over {
        text.push_str("; ");
        text.push_str(&unfit.to_string());
    }
    text
}

fn quoted(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(": {excerpt:?}") }
}
