//! Brings a planned repository into a running guest, and has it written down.

use super::{
    changes::RepoPath,
    checkout::{self, Standing},
    plan::{Plan, Wish},
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
    agent::http::MAX_BODY,
    api::{
        vm::GuestEndpoint,
        workspace::{RecordWorkspace, Workspace},
    },
    failure::{Code, Failure},
};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{Method, body::Frame};
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

    /// Sends it to the agent.
    async fn send(self, endpoint: &GuestEndpoint, progress: &mut Progress<'_>) -> Result<()> {
        let mut connection = guest::connect(endpoint).await?;
        let request = format!("/archive?path={}", segment("/"));
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
        let refused = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(refusal(response, MAX_BODY, guest::WHO).await),
            Err(error) => Some(gone(&error)),
        };
        let packed = self.packed.await.map_err(|error| internal("cannot read the repository", &error))?;
        match (packed, refused) {
            (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
                let what = format!("cannot read {}", self.plan.repository.root.display());
                Err(Failure::caused_by(Code::Unavailable, what, &error).into())
            }
            (_, Some(failure)) => Err(failure.into()),
            (_, None) => Ok(()),
        }
    }
}

/// Brings what `packing` packs into the VM, which is new.
pub(crate) async fn deliver(context: &Context, vm: &str, packing: Packing) -> Result<Workspace> {
    let endpoint = guest::endpoint(context, vm).await?;
    let plan = packing.plan.clone();
    let mut progress = Progress::new(&context.printer);
    progress.phase(&format!("bringing {}", plan.repository.root.display()));
    packing.send(&endpoint, &mut progress).await?;
    finish(context, &endpoint, &plan, &mut progress).await
}

/// Brings a repository into a VM that may have one already.
pub(crate) async fn prepare(context: &Context, vm: &str, plan: Arc<Plan>, existing: Existing) -> Result<Workspace> {
    let endpoint = guest::endpoint(context, vm).await?;
    let removed = make_room(&endpoint, &plan, existing).await?;
    deliver(context, vm, Packing::begin(plan, removed)).await
}

/// Files of the workspace that stands there which the new one does not have; a refusal when it is not ours to change.
async fn make_room(endpoint: &GuestEndpoint, plan: &Plan, existing: Existing) -> Result<Vec<RepoPath>> {
    let path = &plan.wish.guest_path;
    let known = endpoint.workspace.as_ref().filter(|workspace| workspace.guest_path == *path);
    let base = known.and_then(|known| known.base_commit.as_deref());
    match (checkout::inspect(endpoint, path, base).await?, existing) {
        (Standing::Nothing, _) => Ok(Vec::new()),
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

/// The guest's git writes the files, or, where there is none, they are sent.
async fn finish(
    context: &Context,
    endpoint: &GuestEndpoint,
    plan: &Arc<Plan>,
    progress: &mut Progress<'_>,
) -> Result<Workspace> {
    let path = &plan.wish.guest_path;
    progress.phase("writing its files in the guest");
    let written = checkout::checkout(endpoint, path, !plan.is_clean(), plan.commit.as_deref()).await?;
    let base = if let Some(own) = written {
        for submodule in nested(plan) {
            checkout::checkout(endpoint, &submodule.wish.guest_path, false, None).await?;
        }
        if own.is_empty() { plan.commit.clone() } else { Some(commit_id(&own)?) }
    } else {
        progress.phase("sending its files: the guest has no git");
        let packing = Packing::with(plan.clone(), |plan, writer| stream::write_files(plan, writer));
        packing.send(endpoint, progress).await?;
        plan.commit.clone()
    };
    let record = RecordWorkspace {
        guest_path: path.clone(),
        source_path: plan.repository.root.to_string_lossy().into_owned(),
        head_commit: plan.host_commit.clone(),
        base_commit: base,
        mode: plan.wish.mode,
        branch: plan.wish.branch.clone(),
        from: plan.wish.from.clone(),
        include_untracked: plan.wish.include_untracked,
    };
    let at = format!("/v1/vms/{}/workspace", segment(endpoint.id.as_str()));
    context.daemon().await?.put(&at, &record).await
}

/// Submodules, outer before inner.
fn nested(plan: &Plan) -> Vec<&Plan> {
    let mut all = Vec::new();
    for (_, submodule) in &plan.submodules {
        all.push(submodule);
        all.extend(nested(submodule));
    }
    all
}

/// What a guest says is a commit.
fn commit_id(text: &str) -> std::result::Result<String, Failure> {
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_id {
        Ok(text.to_owned())
    } else {
        Err(Failure::new(Code::Guest, "the guest's git did not say which commit it made"))
    }
}

fn streamed(mut chunks: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames =
        futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| Some(chunk?.map(Frame::data))));
    http::Body::new(StreamBody::new(frames))
}

/// What a failure leaves behind.
pub(crate) fn unbrought(error: Error, vm: &str) -> Error {
    match error {
        Error::Failed(failure) => {
            Error::Failed(failure.hint(format!("VM {vm} runs without the repository: banger vm rm -f {vm} deletes it")))
        }
        other => other,
    }
}
