//! A client for the API: HTTP/1.1 over a unix socket, one connection per request, every response bounded in size and
//! time.

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

/// Time limit for a response. Firecracker writes and reads memory before it answers to a snapshot request.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Upper bound for the size of a response, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// Upper bound for the reason of a refusal, in characters; the rest is cut off.
const MAX_REASON: usize = 1000;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Firecracker refused the request.
    #[error("Firecracker refuses {request}: {reason}")]
    Refused {
        /// The request, such as `PUT /vsock`.
        request: String,
        /// The reason in Firecracker's words.
        reason: String,
    },
    /// The request got no valid response.
    #[error("Firecracker does not answer {request}")]
    Unreachable {
        /// The request, such as `PUT /vsock`.
        request: String,
        /// The error.
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

/// Asks for the state of the machine.
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

/// The body of a successful response, or the refusal.
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

/// Treats the other end of `stream` as a Firecracker and reads its response; for [`crate::fuzzing`].
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
    let response = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(response);
    tokio::select! {
        answer = &mut response => answer,
        // The connection may end as soon as the response has arrived.
        _ = connection => response.await,
    }
}
