//! Client of the daemon: typed requests and answers, and the daemon's failures unchanged.

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

/// Version of this program; the daemon of the same build has the same.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Most bytes of an answer that is read whole.
const MAX_ANSWER: usize = 64 << 20;
const WHO: &str = "the daemon";

/// Connection to the daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    connection: Connection,
    /// The daemon's log file, for hints.
    log: PathBuf,
}

impl Daemon {
    /// Starts HTTP with the daemon at the other end of `stream`.
    pub(crate) async fn open(stream: UnixStream, log: PathBuf) -> Result<Self> {
        let connection = Connection::open(stream, vec![(CLIENT_VERSION_HEADER, VERSION)])
            .await
            .map_err(|error| Failure::caused_by(Code::Unavailable, "cannot talk to the daemon", &error))?;
        Ok(Self { connection, log })
    }

    /// Sends `GET path` and parses the JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.request(Method::GET, path).await
    }

    /// Sends a request without a body and parses the JSON answer.
    pub(crate) async fn request<T: DeserializeOwned>(&mut self, method: Method, path: &str) -> Result<T> {
        let response = self.send(method, path, None).await?;
        let body = http::collect(response.into_body(), MAX_ANSWER, WHO).await?;
        Ok(http::parse(&body, Code::Internal, WHO)?)
    }

    /// Sends `PUT path` with a JSON body and parses the JSON answer.
    pub(crate) async fn put<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body =
            serde_json::to_vec(body).map_err(|error| crate::exit::internal("cannot write the request", &error))?;
        let response = self.send(Method::PUT, path, Some(body)).await?;
        let body = http::collect(response.into_body(), MAX_ANSWER, WHO).await?;
        Ok(http::parse(&body, Code::Internal, WHO)?)
    }

    /// Sends `GET path` and returns the body as a stream of bytes.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Incoming> {
        Ok(self.send(Method::GET, path, None).await?.into_body())
    }

    /// Starts an operation. Dropping it closes the connection, which cancels the operation in the daemon.
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

    /// Fails if the daemon has another API version; returns a warning if only the program version differs.
    pub(crate) async fn check_version(&mut self) -> Result<Option<String>> {
        let theirs: Version = self.get("/v1/version").await.map_err(|error| match error {
            // An API without /v1/version is another API.
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

    /// Returns the failure that the daemon answers to `GET path`, if any. Fails if the daemon could not be asked or
    /// broke off.
    pub(crate) async fn get_failure(&mut self, path: &str) -> Result<Option<Failure>> {
        let response = self.ask(Method::GET, path, None).await?;
        if response.status().is_success() {
            // Read to the end, because the connection is reused.
            http::collect(response.into_body(), MAX_ANSWER, WHO).await?;
            return Ok(None);
        }
        Ok(Some(http::read_failure(response, MAX_ANSWER, WHO).await?))
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response<Incoming>> {
        let response = self.ask(method, path, body).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(http::refusal(response, MAX_ANSWER, WHO).await.into())
        }
    }

    /// Returns the response to a request, success or not.
    async fn ask(&mut self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Response<Incoming>> {
        let response = self.connection.send(method, path, body.map(http::full)).await.map_err(|error| {
            Failure::caused_by(Code::Unavailable, "the daemon went away before it answered", &error)
                .hint(format!("its log is {}", self.log.display()))
        })?;
        Ok(response)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Result for one answer; without one the peer closes the connection.
    async fn get_failure(answer: Option<String>) -> Result<Option<Failure>> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut daemon = Daemon::open(ours, "/log".into()).await.unwrap();
        let answers = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(theirs.read_u8().await.unwrap());
            }
            theirs.write_all(answer.unwrap_or_default().as_bytes()).await.unwrap();
            drop(theirs);
        };
        tokio::join!(daemon.get_failure("/v1/images/x"), answers).0
    }

    #[tokio::test]
    async fn what_the_daemon_objects_to_is_told_from_a_daemon_that_is_gone() {
        let answer = |status: &str, length: usize, body: &str| {
            Some(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"))
        };
        let lost = Failure::new(Code::Unavailable, "lost");
        let body = serde_json::to_string(&lost).unwrap();
        assert_eq!(get_failure(answer("200 OK", 2, "{}")).await.unwrap(), None);
        assert_eq!(get_failure(answer("503 Service Unavailable", body.len(), &body)).await.unwrap(), Some(lost));
        for gone in [None, answer("503 Service Unavailable", body.len() + 1, &body)] {
            let error = get_failure(gone).await.unwrap_err();
            let crate::exit::Error::Failed(failure) = error else { panic!("{error:?}") };
            assert_eq!(failure.code, Code::Unavailable);
        }
    }
}
