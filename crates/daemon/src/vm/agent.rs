//! The agent of a VM as the daemon talks to it: short requests with a limit on time and size.
//!
//! An agent that dies is started again, by process 1 or by its guard, and its channel to the host is made anew; for that
//! moment nobody is there. What must not be lost for it is asked again; what can be is not waited for.

use super::{
    guest_text::{agent_refusal, unparsable_answer},
    sockets,
};
use crate::{
    failures::{self, because},
    shim::control::{AGENT, VSOCK},
};
use banger_link::vsock::{self, ConnectError};
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

/// How long a healthy agent may take for a look at its own machine, in software emulation on a busy host.
const GET_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a few small files may take to be on a guest's disk there.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(30);

/// How often one is asked again that was not there.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Why a request came to nothing.
#[derive(Debug)]
enum RequestError {
    /// Nobody was there, or nobody any more before the answer was.
    Absent(Failure),
    /// This is what came of it.
    Answered(Failure),
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Absent(failure) | RequestError::Answered(failure) => failure,
        }
    }
}

/// A VM's agent.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    run_dir: PathBuf,
}

impl Agent {
    /// The agent behind the sockets of a VM's machine.
    pub(crate) fn of(layout: &Layout, vm: &VmId) -> Self {
        Self { run_dir: sockets::directory(layout, vm) }
    }

    /// The socket others dial.
    pub(crate) fn socket(self) -> PathBuf {
        self.run_dir.join(VSOCK)
    }

    async fn dial(&self) -> Result<UnixStream, ConnectError> {
        match vsock::connect(&self.run_dir.join(AGENT), AGENT_PORT).await {
            // A shim of before has one socket for all.
            Err(ConnectError::Socket(error)) if error.kind() == io::ErrorKind::NotFound => {
                vsock::connect(&self.run_dir.join(VSOCK), AGENT_PORT).await
            }
            dialled => dialled,
        }
    }

    /// What the guest says of its resources.
    pub(crate) async fn stats(&self) -> Result<Stats, Failure> {
        self.get("/stats").await
    }

    /// Listening sockets in the guest.
    pub(crate) async fn ports(&self) -> Result<Vec<Port>, Failure> {
        self.get("/ports").await
    }

    /// Begins an orderly end; returns once the guest's data is on its disk and the end has begun. An agent that is not there
    /// is asked again for as long as `limit` lasts, and the first time that is `on_absent`: to give up at once would be to lose
    /// what the guest has not written. To be asked twice changes nothing for it.
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
                // From here on it may be there, and silent.
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
        // The connection is driven here and dropped with the exchange: nothing of it outlives the limit. An agent may
        // end it with its answer, which is there all the same.
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

/// Whether a connection ended before what was asked for had come, and not for anything that came.
fn is_broken(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| !error.is_parse())
}

fn timed_out(path: &str, limit: Duration) -> Failure {
    Failure::new(Code::Timeout, format!("the guest's agent did not answer {path} within {} s", limit.as_secs()))
}
