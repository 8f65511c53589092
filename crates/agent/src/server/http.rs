//! Routes of the agent's HTTP server.

use super::{Context, archive, body::Body, connect, exec, ports, power, stats, workspace};
use crate::boot::boottime_ms;
use banger_link::Stream;
use banger_proto::{
    agent::http::{API_VERSION, Health, MAX_BODY, Shutdown},
    failure::{Code, Failure},
};
use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{convert::Infallible, rc::Rc};

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;

/// Serves one stream.
pub(super) async fn serve(context: Rc<Context>, stream: Stream) {
    let service = service_fn(move |request| {
        let context = Rc::clone(&context);
        async move { Ok::<_, Infallible>(answer(context, request).await.unwrap_or_else(|failure| refuse(&failure))) }
    });
    let connection =
        http1::Builder::new().max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service).with_upgrades();
    // A client that breaks the protocol or the stream harms nobody else, and there is nobody to report to.
    let _ = connection.await;
}

async fn answer(context: Rc<Context>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    if request.method() == Method::CONNECT {
        return connect::open(&context, request).await;
    }
    let route = (request.method().clone(), request.uri().path().to_owned());
    match (route.0.as_str(), route.1.as_str()) {
        ("GET", "/healthz") => json(StatusCode::OK, &health(&context)),
        ("GET", "/stats") => {
            json(StatusCode::OK, &stats::read(context.sessions()).map_err(|error| unreadable(&error))?)
        }
        ("GET", "/ports") => json(StatusCode::OK, &ports::list()),
        ("GET", "/exec") => exec::upgrade(context, request),
        ("GET", "/archive") => archive::pack(request.uri(), context.in_use()),
        ("PUT", "/archive") => {
            let _in_use = context.in_use();
            archive::unpack(request).await
        }
        ("GET", "/workspace") => json(StatusCode::OK, &workspace::status_of(&context, request.uri())?),
        ("GET", "/workspace/files") => workspace::files(&context, request.uri()).await,
        ("PUT", "/workspace") => workspace::receive(context, request).await,
        ("POST", "/shutdown") => {
            let shutdown: Shutdown = read_json(request).await?;
            power::begin(context, &shutdown).await;
            Ok(status(StatusCode::ACCEPTED))
        }
        (method, path) => Err(Failure::new(Code::NotFound, format!("the agent has no {method} {path:?}"))),
    }
}

fn health(context: &Context) -> Health {
    Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: API_VERSION,
        boot_id: context.boot_id.clone(),
        uptime_ms: boottime_ms(),
        init: context.guest.init,
        execs: context.execs.get(),
    }
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::caused_by(Code::Internal, "the guest's /proc cannot be read", error)
}

async fn read_json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let bytes = body.map_err(|error| Failure::caused_by(Code::Invalid, "the body cannot be read", &*error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| Failure::caused_by(Code::Invalid, "the body does not parse", &error))
}

/// Builds a response without a body.
pub(super) fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Whole(bytes::Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Builds a response with a JSON body.
pub(super) fn json<T: Serialize>(code: StatusCode, value: &T) -> Result<Response<Body>, Failure> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Failure::caused_by(Code::Internal, "the answer cannot be written", &error))?;
    let mut response = status(code);
    *response.body_mut() = Body::Whole(bytes.into());
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn refuse(failure: &Failure) -> Response<Body> {
    let code = match failure.code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Invalid => StatusCode::BAD_REQUEST,
        Code::Denied => StatusCode::FORBIDDEN,
        Code::Conflict | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout | Code::Guest | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    json(code, failure).unwrap_or_else(|_| status(StatusCode::INTERNAL_SERVER_ERROR))
}
