//! HTTP/1.1 over an existing stream: the daemon's socket, or a guest's channel.
//!
//! The peer may be a hostile guest, so every body is read up to a limit and every answer is parsed as untrusted input.

use crate::progress_stream::{LastWrite, ProgressStream};
use banger_proto::failure::{Code, Failure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::{fmt::Write as _, io};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

/// Body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// One connection. Dropping it and the bodies received from it closes the stream.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<Body>,
    driver: AbortHandle,
    last_write: LastWrite,
    headers: Vec<(&'static str, &'static str)>,
}

impl Connection {
    /// Starts HTTP on `stream`; `headers` are sent with every request.
    pub(crate) async fn open<S>(stream: S, headers: Vec<(&'static str, &'static str)>) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = ProgressStream::new(stream);
        let last_write = stream.last_write();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The error is returned to the pending request, too.
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Self { sender, driver, last_write, headers })
    }

    /// Returns the time at which the peer last accepted bytes.
    pub(crate) fn last_write(&self) -> LastWrite {
        self.last_write.clone()
    }

    /// Closes the stream at once, whatever is in flight.
    pub(crate) fn abort(&self) {
        self.driver.abort();
    }

    /// Sends one request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(body.unwrap_or_else(empty)).expect("paths are made of encoded segments");
        self.sender.send_request(request).await
    }
}

/// Builds a body from bytes in memory.
pub(crate) fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> Body {
    full(Vec::new())
}

/// Reads the whole body up to `limit` bytes; `who` is the sender in failures.
pub(crate) async fn collect(mut body: Incoming, limit: usize, who: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::caused_by(Code::Unavailable, format!("{who} went away while it answered"), &error)
        })?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_much(who, limit));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Failure of a body over the limit.
pub(crate) fn too_much(who: &str, limit: usize) -> Failure {
    Failure::new(Code::Internal, format!("{who} answered with more than {limit} bytes"))
}

/// Returns the failure in the body of a refused request.
pub(crate) async fn refusal(response: Response<Incoming>, limit: usize, who: &str) -> Failure {
    read_failure(response, limit, who).await.unwrap_or_else(|failure| failure)
}

/// Reads the failure in the body of a refused request; fails if `who` did not send all of it.
pub(crate) async fn read_failure(response: Response<Incoming>, limit: usize, who: &str) -> Result<Failure, Failure> {
    let status = response.status();
    let body = collect(response.into_body(), limit, who).await?;
    Ok(serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let failure = Failure::new(Code::Internal, format!("{who} answered {status}"));
        if text.is_empty() { failure } else { failure.cause(text) }
    }))
}

/// Parses a body as JSON.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8], code: Code, who: &str) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::caused_by(code, format!("{who} sent an answer that does not parse"), &error))
}

/// Percent-encodes `text` as one path segment or one query value.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(segment("alpine:3.20"), "alpine%3A3.20");
        assert_eq!(segment("a/b?c#d e"), "a%2Fb%3Fc%23d%20e");
    }
}
