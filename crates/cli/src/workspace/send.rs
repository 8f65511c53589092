//! Brings a planned repository into a running guest, and has it written down.

use super::{
    changes::RepoPath,
    checkout::{self, Standing},
    plan::{self, Plan, Wish},
    stream,
};
use crate::{
    context::Context,
    copy::bridge::{self, ChannelWriter, Counter},
    exit::{Error, Result, internal},
    guest::{self, gone},
    http::{self, Body, refusal, segment},
    output::progress::{Progress, TICK},
};
use banger_proto::{
    agent::{
        http::MAX_BODY,
        workspace::{Arrived, Standing as Place},
    },
    api::{
        vm::GuestEndpoint,
        workspace::{Mode, RecordWorkspace, Workspace},
    },
    failure::{Code, Failure},
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{
    Method, Response,
    body::{Frame, Incoming},
};
use std::{
    collections::HashSet,
    io,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::mpsc;

/// What may be done to what stands there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// What the guest did not change is brought up to date.
    Update,
    /// What the guest changed is overwritten, too.
    Overwrite,
}

/// The same wish again.
pub(crate) fn again(workspace: &Workspace) -> Wish {
    Wish {
        path: workspace.source_path.clone().into(),
        mode: workspace.mode,
        branch: workspace.branch.clone(),
        from: workspace.from.clone(),
        include_untracked: workspace.include_untracked,
        guest_path: workspace.guest_path.clone(),
    }
}

/// The repository as a stream that is being made, while somebody else makes the VM.
pub(crate) struct Packing {
    plan: Arc<Plan>,
    counter: Counter,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    packed: tokio::task::JoinHandle<io::Result<()>>,
}

impl Packing {
    /// Begins; a little is made in advance, the rest as it is taken.
    pub(crate) fn begin(plan: Arc<Plan>, removed: Vec<RepoPath>) -> Self {
        Self::with(plan, move |plan, writer| stream::write(plan, &removed, writer))
    }

    fn with(plan: Arc<Plan>, write: impl FnOnce(&Plan, &mut ChannelWriter) -> io::Result<()> + Send + 'static) -> Self {
        let counter = Counter::default();
        let (mut writer, chunks) = bridge::writer(counter.clone());
        let ours = plan.clone();
        let packed = tokio::task::spawn_blocking(move || match write(&ours, &mut writer) {
            Ok(()) => Ok(()),
            Err(error) => {
                writer.abort(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
        });
        Self { plan, counter, chunks, packed }
    }

    /// Sends it to the agent, which also writes the files out of the packs when it is told to; gives where that is.
    async fn send(
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
        let sending = connection.send(Method::PUT, &request, Some(streamed(self.chunks)));
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
            Ok(response) => Err(refusal(response, MAX_BODY, guest::WHO).await.into()),
            Err(error) => Err(gone(&error).into()),
        };
        let packed = self.packed.await.map_err(|error| internal("cannot read the repository", &error))?;
        match packed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let what = format!("cannot read {}", self.plan.repository.root.display());
                Err(Failure::caused_by(Code::Unavailable, what, &error).into())
            }
            _ => answer,
        }
    }
}

/// Where the agent says the workspace is.
async fn arrived(response: Response<Incoming>) -> Result<String> {
    let body = http::collect(response.into_body(), MAX_BODY, guest::WHO).await?;
    let Arrived { path } = http::parse(&body, Code::Guest, guest::WHO)?;
    absolute(path)
}

/// A path as a guest gives it.
fn absolute(path: String) -> Result<String> {
    if path.starts_with('/') && plan::guest_path(&path).is_ok_and(|plain| plain == path) {
        Ok(path)
    } else {
        Err(Failure::new(Code::Guest, format!("{} says that the workspace is at {path:?}", guest::WHO)).into())
    }
}

/// Brings what `packing` packs into the VM, which is new.
pub(crate) async fn deliver(context: &Context, vm: &str, packing: Packing) -> Result<Workspace> {
    let endpoint = guest::endpoint(context, vm).await?;
    let plan = packing.plan.clone();
    let mut progress = Progress::new(&context.printer);
    progress.phase(&format!("bringing {}", plan.repository.root.display()));
    let by_agent = plan.wish.mode == Mode::Overlay;
    let path = packing.send(&endpoint, &plan.wish.guest_path, by_agent, &mut progress).await?;
    finish(context, &endpoint, &plan, path, &mut progress).await
}

/// Brings a repository into a VM that may have one already.
pub(crate) async fn prepare(context: &Context, vm: &str, plan: Arc<Plan>, existing: Existing) -> Result<Workspace> {
    let endpoint = guest::endpoint(context, vm).await?;
    let place: Place =
        guest::get_from(&endpoint, &format!("/workspace?path={}", segment(&plan.wish.guest_path))).await?;
    let removed =
        if place.occupied { make_room(&endpoint, &plan, &absolute(place.path)?, existing).await? } else { Vec::new() };
    deliver(context, vm, Packing::begin(plan, removed)).await
}

/// Files of the workspace that stands there which the new one does not have; a refusal when it is not ours to change.
async fn make_room(endpoint: &GuestEndpoint, plan: &Plan, path: &str, existing: Existing) -> Result<Vec<RepoPath>> {
    let known = endpoint.workspace.as_ref().filter(|workspace| workspace.guest_path == path);
    let base = known.and_then(|known| known.base_commit.as_deref());
    match (checkout::inspect(endpoint, path, base).await?, existing) {
        (Standing::Unknown, _) => {
            let failure = Failure::new(Code::Conflict, format!("{path} in VM {} is in use", endpoint.name));
            Err(failure.hint("--guest-path brings the repository elsewhere").into())
        }
        (Standing::Workspace { changed: true, .. }, Existing::Update) => {
            let failure = Failure::new(Code::Conflict, format!("{path} in VM {} was worked in", endpoint.name));
            let failure = failure.hint(format!("banger vm workspace export {} saves that work", endpoint.name));
            Err(failure.hint("banger vm workspace prepare --force overwrites it").into())
        }
        (Standing::Workspace { files, .. }, _) => {
            let arriving: HashSet<RepoPath> = plan.files().into_iter().collect();
            Ok(files.into_iter().filter(|file| !arriving.contains(file)).collect())
        }
    }
}

/// What the agent left to do: submodules and histories as they are belong to the guest's git, where there is one.
async fn finish(
    context: &Context,
    endpoint: &GuestEndpoint,
    plan: &Arc<Plan>,
    path: String,
    progress: &mut Progress<'_>,
) -> Result<Workspace> {
    if plan.wish.mode == Mode::Full {
        progress.phase("writing its files in the guest");
        if checkout::checkout(endpoint, &path).await? {
            for submodule in nested(plan, &path) {
                checkout::checkout(endpoint, &submodule).await?;
            }
        } else {
            progress.phase("sending its files: the guest has no git");
            let packing = Packing::with(plan.clone(), |plan, writer| stream::write_files(plan, writer));
            packing.send(endpoint, &path, false, progress).await?;
        }
    }
    let kept = if plan.is_clean() {
        None
    } else {
        progress.phase("writing down the tree as it was brought");
        checkout::keep(endpoint, &path, plan.commit.as_deref()).await?
    };
    let record = RecordWorkspace {
        guest_path: path,
        source_path: plan.repository.root.to_string_lossy().into_owned(),
        head_commit: plan.host_commit.clone(),
        base_commit: kept.or_else(|| plan.commit.clone()),
        mode: plan.wish.mode,
        branch: plan.wish.branch.clone(),
        from: plan.wish.from.clone(),
        include_untracked: plan.wish.include_untracked,
    };
    let at = format!("/v1/vms/{}/workspace", segment(endpoint.id.as_str()));
    context.daemon().await?.put(&at, &record).await
}

/// Where submodules are in the guest, outer before inner.
fn nested(plan: &Plan, base: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (path, submodule) in &plan.submodules {
        let at = format!("{base}/{}", String::from_utf8_lossy(path));
        all.push(at.clone());
        all.extend(nested(submodule, &at));
    }
    all
}

fn streamed(mut chunks: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames =
        futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| Some(chunk?.map(Frame::data))));
    http::Body::new(StreamBody::new(frames))
}

/// What a failure leaves behind.
pub(crate) fn unfinished(error: Error, vm: &str) -> Error {
    match error {
        Error::Failed(failure) => {
            let left = format!("VM {vm} runs, without the repository or its tools: banger vm rm -f {vm} deletes it");
            Error::Failed(failure.hint(left))
        }
        other => other,
    }
}
