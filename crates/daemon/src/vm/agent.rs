//! Client for a VM's agent: short requests, limited in time and size.
//!
//! An agent that dies is started again by process 1 or by its guard, and its channel to the host is made anew;
//! meanwhile nobody answers. A request that must not be lost is repeated; any other fails at once.

use super::{
    guest_text::{agent_refusal, unparsable_answer},
    sockets,
};
use crate::failures::{self, because};
use banger_link::vsock::{self, ConnectError};
use banger_machine::shim::control::{AGENT, VSOCK};
use banger_proto::{
    agent::{
        http::{MAX_BODY, Port, Shutdown, Stats},
        link::AGENT_PORT,
    },
    failure::{Code, Failure},
    layout::Layout,
    name::VmId,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::{error::Error, io, path::PathBuf, time::Duration};
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

/// Time that a healthy agent may take to read facts of its own machine, under software emulation on a busy host.
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that the agent may take to write a few small files to the guest's disk there.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before an absent agent is asked again.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Reason why a request failed.
#[derive(Debug)]
enum RequestError {
    /// There was no agent, or the connection broke before the answer.
    Absent(Failure),
    /// The agent answered with this failure.
    Answered(Failure),
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Absent(failure) | RequestError::Answered(failure) => failure,
        }
    }
}

/// Client for the agent of one VM.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    run_dir: PathBuf,
}

impl Agent {
    /// Returns a client for the agent behind the sockets of a VM's machine.
    pub(crate) fn of(layout: &Layout, vm: &VmId) -> Self {
        Self { run_dir: sockets::directory(layout, vm) }
    }

    /// Returns the socket that clients outside the daemon dial.
    pub(crate) fn socket(self) -> PathBuf {
        self.run_dir.join(VSOCK)
    }

    async fn dial(&self) -> Result<UnixStream, ConnectError> {
        match vsock::connect(&self.run_dir.join(AGENT), AGENT_PORT).await {
            // A shim of an earlier version has one socket for everybody.
            Err(ConnectError::Socket(error)) if error.kind() == io::ErrorKind::NotFound => {
                vsock::connect(&self.run_dir.join(VSOCK), AGENT_PORT).await
            }
            dialled => dialled,
        }
    }

    /// Reads the guest's resource usage.
    pub(crate) async fn stats(&self) -> Result<Stats, Failure> {
        self.get("/stats").await
    }

    /// Lists the listening sockets in the guest.
    pub(crate) async fn ports(&self) -> Result<Vec<Port>, Failure> {
        self.get("/ports").await
    }

    /// Begins an orderly shutdown. Returns once the guest's data is on its disk and the shutdown has begun. An absent
    /// agent is asked again until `limit` is over, because giving up at once would lose what the guest has not written;
    /// the first absence is passed to `on_absent`. Repeating the request changes nothing for the guest.
    pub(super) async fn shutdown(
        &self,
        body: &Shutdown,
        limit: Duration,
        on_absent: impl FnOnce(&Failure),
    ) -> Result<(), Failure> {
        const PATH: &str = "/shutdown";
        let body = Bytes::from(serde_json::to_vec(body).expect("a shutdown serializes"));
        let (mut absent, mut on_absent) = (None, Some(on_absent));
        let asking = async {
            loop {
                match self.exchange(Method::POST, PATH, body.clone()).await {
                    Ok(_) => return Ok(()),
                    Err(RequestError::Answered(failure)) => return Err(failure),
                    Err(RequestError::Absent(failure)) => {
                        if let Some(on_absent) = on_absent.take() {
                            on_absent(&failure);
                        }
                        absent = Some(failure);
                    }
                }
                sleep(RETRY_EVERY).await;
                // From here on the agent may be present, and silent.
                absent = None;
            }
        };
        match timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(absent.unwrap_or_else(|| timed_out(PATH, limit))),
        }
    }

    /// Unpacks a tar archive below the guest's root.
    pub(crate) async fn unpack(&self, archive: Vec<u8>) -> Result<(), Failure> {
        self.request(Method::PUT, "/archive?path=/", archive.into(), UNPACK_TIMEOUT).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, Failure> {
        let body = self.request(Method::GET, path, Bytes::new(), GET_TIMEOUT).await?;
        serde_json::from_slice(&body).map_err(|error| unparsable_answer(path, &error))
    }

    async fn request(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Failure> {
        match timeout(limit, self.exchange(method, path, body)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(timed_out(path, limit)),
        }
    }

    async fn exchange(&self, method: Method, path: &'static str, body: Bytes) -> Result<Bytes, RequestError> {
        let failed = |error: &(dyn Error + 'static)| {
            let failure = because(Code::Guest, format!("the guest's agent did not answer {path}"), error);
            if is_broken(error) { RequestError::Absent(failure) } else { RequestError::Answered(failure) }
        };
        let stream = self.dial().await.map_err(|error| RequestError::Absent(failures::no_agent(path, &error)))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "agent")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a fixed request is valid");
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|error| failed(&*error))?.to_bytes();
            Ok::<_, RequestError>((status, body))
        };
        // The connection is driven here and dropped with the exchange, so that nothing outlives the limit. An agent may
        // close the connection together with its answer, which is complete all the same.
        tokio::pin!(exchange);
        let (status, body) = tokio::select! {
            answer = &mut exchange => answer?,
            ended = connection => match ended {
                Err(error) => return Err(failed(&error)),
                Ok(()) => exchange.await?,
            },
        };
        if status.is_success() { Ok(body) } else { Err(RequestError::Answered(agent_refusal(path, status, &body))) }
    }
}

/// Whether the connection ended before the answer had come. `false` where the answer itself could not be parsed.
fn is_broken(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_parse())
}

fn timed_out(path: &str, limit: Duration) -> Failure {
    Failure::new(Code::Timeout, format!("the guest's agent did not answer {path} within {} s", limit.as_secs()))
}
