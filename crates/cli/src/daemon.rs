//! The daemon as commands see it: typed requests, typed answers, failures as it sent them.

pub(crate) mod connect;
pub(crate) mod operation;
pub(crate) mod spawn;

use crate::{
    exit::Result,
    http::{self, Connection},
};
use banger_proto::{
    api::{API_VERSION, CLIENT_VERSION_HEADER, MAX_REQUEST, host::Version},
    failure::{Code, Failure},
};
use hyper::{Method, Response, body::Incoming};
use operation::Operation;
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;
use tokio::net::UnixStream;

/// This program's version; the daemon of the same build has the same.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Largest answer that is read whole, in bytes.
const MAX_ANSWER: usize = 64 << 20;
const WHO: &str = "the daemon";

/// One connection to the daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    connection: Connection,
    /// Where it logs, for hints.
    log: PathBuf,
}

impl Daemon {
    /// Speaks to the daemon at the other end of `stream`.
    pub(crate) async fn open(stream: UnixStream, log: PathBuf) -> Result<Self> {
        let connection = Connection::open(stream, vec![(CLIENT_VERSION_HEADER, VERSION)])
            .await
            .map_err(|error| Failure::caused_by(Code::Unavailable, "cannot talk to the daemon", &error))?;
        Ok(Self { connection, log })
    }

    /// `GET path`.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.request(Method::GET, path).await
    }

    /// A request without a body that answers JSON.
    pub(crate) async fn request<T: DeserializeOwned>(&mut self, method: Method, path: &str) -> Result<T> {
        let response = self.send(method, path, None).await?;
        let body = http::collect(response.into_body(), MAX_ANSWER, WHO).await?;
        Ok(http::parse(&body, Code::Internal, WHO)?)
    }

    /// `PUT path` with a body that answers JSON.
    pub(crate) async fn put<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body =
            serde_json::to_vec(body).map_err(|error| crate::exit::internal("cannot write the request", &error))?;
        let response = self.send(Method::PUT, path, Some(body)).await?;
        let body = http::collect(response.into_body(), MAX_ANSWER, WHO).await?;
        Ok(http::parse(&body, Code::Internal, WHO)?)
    }

    /// `GET path` where the answer is a stream of bytes.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Incoming> {
        Ok(self.send(Method::GET, path, None).await?.into_body())
    }

    /// Begins an operation. Dropping it closes the connection, which cancels it in the daemon.
    pub(crate) async fn operate<T: DeserializeOwned>(
        mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Operation<T>> {
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| crate::exit::internal("cannot write the request", &error))?;
        if body.as_ref().is_some_and(|body| body.len() > MAX_REQUEST) {
            return Err(Failure::new(Code::Invalid, format!("the request is larger than {MAX_REQUEST} bytes")).into());
        }
        let response = self.send(method, path, body).await?;
        Ok(Operation::new(response.into_body(), self.connection, self.log))
    }

    /// Refuses a daemon of another API; says what differs otherwise.
    pub(crate) async fn check_version(&mut self) -> Result<Option<String>> {
        let theirs: Version = self.get("/v1/version").await.map_err(|error| match error {
            // An API that has no /v1/version is another API.
            crate::exit::Error::Failed(Failure { code: Code::Internal | Code::NotFound, .. }) => {
                other_api(&Version { version: "unknown".into(), api_version: 0 }).into()
            }
            error => error,
        })?;
        if theirs.api_version != API_VERSION {
            return Err(other_api(&theirs).into());
        }
        Ok((theirs.version != VERSION).then(|| {
            format!(
                "the running daemon is version {}, this is {VERSION}; 'banger daemon stop' lets the next command start \
                 the new one (VMs keep running)",
                theirs.version
            )
        }))
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response<Incoming>> {
        let response = self.connection.send(method, path, body.map(http::full)).await.map_err(|error| {
            Failure::caused_by(Code::Unavailable, "the daemon went away before it answered", &error)
                .hint(format!("its log is {}", self.log.display()))
        })?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(http::refusal(response, MAX_ANSWER, WHO).await.into())
        }
    }
}

fn other_api(theirs: &Version) -> Failure {
    Failure::new(
        Code::Unsupported,
        format!(
            "the running daemon (version {}) speaks another API than this banger (version {VERSION}, API {API_VERSION})",
            theirs.version
        ),
    )
    .hint("banger daemon stop ends it; VMs keep running, and the next command starts the daemon that belongs to this banger")
}
