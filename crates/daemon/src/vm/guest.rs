//! The agent of a VM as the daemon talks to it: short requests with a limit on time and size.

use super::sockets;
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
use std::{io, path::PathBuf, time::Duration};
use tokio::{net::UnixStream, time::timeout};

/// How long a healthy agent may take for a look at its own machine, in software emulation on a busy host.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a few small files may take to be on a guest's disk there.
const UNPACK_PATIENCE: Duration = Duration::from_secs(30);

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
        self.look("/stats").await
    }

    /// Listening sockets in the guest.
    pub(crate) async fn ports(&self) -> Result<Vec<Port>, Failure> {
        self.look("/ports").await
    }

    /// Begins an orderly end; returns once the guest's data is on its disk and the end has begun.
    pub(super) async fn shutdown(&self, body: &Shutdown, patience: Duration) -> Result<(), Failure> {
        let body = serde_json::to_vec(body).expect("a shutdown serializes");
        self.request(Method::POST, "/shutdown", body.into(), patience).await.map(drop)
    }

    /// Unpacks a tar archive below the guest's root.
    pub(crate) async fn unpack(&self, archive: Vec<u8>) -> Result<(), Failure> {
        self.request(Method::PUT, "/archive?path=/", archive.into(), UNPACK_PATIENCE).await.map(drop)
    }

    async fn look<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, Failure> {
        let body = self.request(Method::GET, path, Bytes::new(), LOOK_PATIENCE).await?;
        serde_json::from_slice(&body)
            .map_err(|error| because(Code::Guest, format!("the guest's agent answered {path} with nonsense"), &error))
    }

    async fn request(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Failure> {
        match timeout(patience, self.converse(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                Code::Timeout,
                format!("the guest's agent did not answer {path} within {} s", patience.as_secs()),
            )),
        }
    }

    async fn converse(&self, method: Method, path: &'static str, body: Bytes) -> Result<Bytes, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            because(Code::Guest, format!("the guest's agent did not answer {path}"), error)
        };
        let stream = self.dial().await.map_err(|error| failures::no_agent(path, &error))?;
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
            Ok::<_, Failure>((status, body))
        };
        // The connection is driven here and dropped with the exchange: nothing of it outlives the patience. An agent may
        // end it with its answer, which is there all the same.
        tokio::pin!(exchange);
        let (status, body) = tokio::select! {
            answer = &mut exchange => answer?,
            ended = connection => match ended {
                Err(error) => return Err(failed(&error)),
                Ok(()) => exchange.await?,
            },
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Failure::new(failure.code, format!("the guest's agent refused {path}"))
                .cause(banger_artifacts::program::escaped(failure.to_string().as_bytes())),
            Err(_) => Failure::new(Code::Guest, format!("the guest's agent answered {path} with {status}")),
        })
    }
}
