//! The tar stream of a planned repository, and its way to the guest's agent.

use super::{import::absolute, leftovers::Leftovers, plan::Plan, stream};
use crate::{
    copy::bridge::{self, ChannelWriter, Counter},
    exit::{Result, internal},
    guest,
    http::{self, Body, segment},
    output::progress::{Progress, TICK},
    stall::STALL_TIMEOUT,
};
use banger_proto::{
    agent::{http::MAX_BODY, workspace::Arrived},
    api::vm::GuestEndpoint,
    failure::{Code, Failure},
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{
    Method, Response,
    body::{Frame, Incoming},
};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::mpsc;

/// A tar stream that a thread writes while somebody else boots the VM. Its channel is bounded: the thread runs a little
/// ahead, the rest is made as it is sent.
pub(crate) struct Upload {
    pub(super) plan: Arc<Plan>,
    counter: Counter,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    writer: tokio::task::JoinHandle<io::Result<()>>,
}

impl Upload {
    /// Begins the stream of a whole repository.
    pub(crate) fn begin(plan: Arc<Plan>, left: Leftovers) -> Self {
        Self::with(plan, move |plan, writer| stream::write(plan, &left, writer))
    }

    /// Begins a stream that `write` makes.
    pub(super) fn with(
        plan: Arc<Plan>,
        write: impl FnOnce(&Plan, &mut ChannelWriter) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let counter = Counter::default();
        let (mut writer, chunks) = bridge::writer(counter.clone());
        let ours = plan.clone();
        let writer = tokio::task::spawn_blocking(move || match write(&ours, &mut writer) {
            Ok(()) => Ok(()),
            Err(error) => {
                writer.abort(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
        });
        Self { plan, counter, chunks, writer }
    }

    /// Sends the stream to the agent, which with `checkout` also writes the files out of the packs. Returns the path of
    /// the workspace.
    pub(super) async fn send(
        self,
        endpoint: &GuestEndpoint,
        path: &str,
        checkout: bool,
        progress: &mut Progress<'_>,
    ) -> Result<String> {
        let mut connection = guest::connect(endpoint).await?;
        let mut request = format!("/workspace?path={}", segment(path));
        if checkout {
            request = format!("{request}&checkout={}", self.plan.hash);
        }
        let body = Some(streamed(self.chunks));
        // The agent answers only after it wrote the files out of the packs, so it is asked meanwhile whether it is
        // there.
        let responds = async || guest::responds(endpoint).await;
        let sending = STALL_TIMEOUT.exchange_while(&mut connection, Method::PUT, &request, body, responds);
        tokio::pin!(sending);
        let mut ticks = tokio::time::interval(TICK);
        let sent = loop {
            tokio::select! {
                biased;
                sent = &mut sending => break sent,
                _ = ticks.tick() => progress.advance(self.counter.load(Ordering::Relaxed), None),
            }
        };
        let answer = match sent {
            Ok(response) if response.status().is_success() => arrived(response).await,
            Ok(response) => Err(with_hint(STALL_TIMEOUT.refusal(response).await).into()),
            Err(failure) => Err(failure.into()),
        };
        let written = self.writer.await.map_err(|error| internal("cannot read the repository", &error))?;
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let what = format!("cannot read {}", self.plan.repository.root.display());
                Err(Failure::caused_by(Code::Unavailable, what, &error).into())
            }
            _ => answer,
        }
    }
}

/// Adds to a refusal the way out where the VM's user may not write at the guest path.
fn with_hint(refusal: Failure) -> Failure {
    match refusal.code {
        Code::Denied => refusal.hint("--guest-path ~/repo is in the home of the VM's user"),
        _ => refusal,
    }
}

/// Reads the path of the workspace from the agent's answer.
async fn arrived(response: Response<Incoming>) -> Result<String> {
    let body = STALL_TIMEOUT.collect(response.into_body(), MAX_BODY).await?;
    let Arrived { path } = guest::parse(&body)?;
    absolute(path)
}

fn streamed(mut chunks: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames =
        futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| Some(chunk?.map(Frame::data))));
    http::Body::new(StreamBody::new(frames))
}
