//! Answers other than a service's result: failures, and requests that do not parse.

use crate::failures::because;
use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use banger_proto::{
    api::http_status,
    failure::{Code, Failure},
};
use serde::de::DeserializeOwned;
use tracing::Instrument as _;

/// A [`Failure`] as HTTP response.
#[derive(Debug)]
pub(super) struct Refusal(Failure);

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(mut failure) = self;
        // Streams carry their operation's id; a refusal is logged under an id of its own.
        let operation = failure.operation.get_or_insert_with(crate::random::operation_id).clone();
        tracing::info!(id = %operation, code = failure.code.as_str(), %failure, "refused");
        let status = StatusCode::from_u16(http_status(failure.code)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(failure)).into_response()
    }
}

/// JSON body. An empty one is the type's default; types with required fields refuse it.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|error| Failure::new(Code::Invalid, "cannot read the request's body").cause(error.body_text()))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let body = Json::<T>::from_bytes(text).map_err(|error: JsonRejection| {
            let failure = Failure::new(Code::Invalid, "the request's body is not what this path takes");
            failure.cause(error.body_text())
        })?;
        Ok(Self(body.0))
    }
}

/// Decoded path parameters.
#[derive(Debug)]
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => {
                Err(Failure::new(Code::Invalid, "cannot read the request's path").cause(error.body_text()).into())
            }
        }
    }
}

/// Runs work that must not be abandoned half way: it continues when the client disconnects.
pub(super) async fn uncancelled<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.unwrap_or_else(|error| Err(because(Code::Internal, "the request's work has stopped", &error)))
}

/// Query parameters, or the reason they are refused.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query.map(|Query(value)| value).map_err(|error| Failure::new(Code::Invalid, error.body_text()))
}

/// Answer to an unknown path.
pub(super) async fn no_such_path(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(Code::NotFound, format!("this daemon has no {path:?}"))
        .hint("`banger version` shows both versions; `banger daemon stop` lets the newer one start")
        .into()
}

/// Answer to a method the path does not support.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(Code::Invalid, format!("{path:?} does not take {method}")).into()
}
