//! The API's client: HTTP/1.1 over a unix socket, one connection a request, every answer bounded in size and time.

use super::{
    api::{Call, Error, InstanceInfo},
    sockets::{API, Sockets},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::{net::UnixStream, time::timeout};

/// How long an answer may take. Memory is written and read while a snapshot's is awaited.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Longest answer.
const MAX_ANSWER: usize = 1 << 20;
/// Most characters of a refusal's reason that are passed on.
const MAX_REASON: usize = 1000;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Firecracker said no, and why.
    #[error("Firecracker refuses {request}: {reason}")]
    Refused {
        /// Such as `PUT /vsock`.
        request: String,
        /// In Firecracker's words.
        reason: String,
    },
    /// It could not be asked.
    #[error("Firecracker does not answer {request}")]
    Unreachable {
        /// Such as `PUT /vsock`.
        request: String,
        /// What happened.
        source: io::Error,
    },
}

impl From<ApiError> for io::Error {
    fn from(error: ApiError) -> Self {
        io::Error::other(error)
    }
}

/// Makes one call.
pub(super) async fn call(sockets: &Sockets, call: &Call) -> Result<(), ApiError> {
    let (method, path) = call.target();
    request(sockets, method, &path, Some(call.body().to_string())).await.map(drop)
}

/// What the machine is doing.
pub(super) async fn info(sockets: &Sockets) -> Result<InstanceInfo, ApiError> {
    instance(&request(sockets, Method::GET, "/", None).await?)
}

async fn request(sockets: &Sockets, method: Method, path: &str, body: Option<String>) -> Result<Bytes, ApiError> {
    let name = format!("{method} {path}");
    let exchange = async { exchange(sockets.connect(API).await?, method, path, body).await };
    let (status, answer) = timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))
        .map_err(|source| ApiError::Unreachable { request: name.clone(), source })?;
    into_result(name, status, answer)
}

/// The answer to what was done.
fn into_result(request: String, status: StatusCode, answer: Bytes) -> Result<Bytes, ApiError> {
    if status.is_success() {
        return Ok(answer);
    }
    let reason = match serde_json::from_slice::<Error>(&answer) {
        Ok(error) => error.fault_message,
        Err(_) => format!("{status}"),
    };
    let reason: String = reason.chars().take(MAX_REASON).collect();
    Err(ApiError::Refused { request, reason: reason.escape_debug().to_string() })
}

/// Takes what is said at the other end of `stream` for a Firecracker's answer, for [`crate::fuzzing`].
pub(crate) async fn fuzz_read(stream: UnixStream) -> Result<InstanceInfo, ApiError> {
    let request = || "GET /".to_owned();
    let unreachable = |source| ApiError::Unreachable { request: request(), source };
    let (status, answer) = exchange(stream, Method::GET, "/", None).await.map_err(unreachable)?;
    instance(&into_result(request(), status, answer)?)
}

fn instance(answer: &[u8]) -> Result<InstanceInfo, ApiError> {
    serde_json::from_slice(answer)
        .map_err(|error| ApiError::Unreachable { request: "GET /".into(), source: io::Error::other(error) })
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Option<String>,
) -> io::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(body.unwrap_or_default()))
        .map_err(io::Error::other)?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        // The connection may be over as soon as the answer is there.
        _ = connection => asked.await,
    }
}
