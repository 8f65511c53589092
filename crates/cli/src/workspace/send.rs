//! Brings a planned repository into a running guest, and has it written down.

use super::{
    bringer::Turn,
    changes::{RepoPath, pieces},
    checkout,
    inspect::inspect,
    leftovers::{Leftovers, at_stake},
    plan::{self, Plan, Wish},
    standing::{Found, Looked, Standing, some},
    stream,
};
use crate::{
    context::Context,
    copy::bridge::{self, ChannelWriter, Counter},
    exit::{Error, Result, internal},
    guest,
    http::{self, Body, segment},
    output::progress::{Progress, TICK},
    patience::PATIENCE,
};
use banger_proto::{
    agent::{
        http::MAX_BODY,
        workspace::{Arrived, HashName, Standing as Place},
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
    pub(crate) fn begin(plan: Arc<Plan>, left: Leftovers) -> Self {
        Self::with(plan, move |plan, writer| stream::write(plan, &left, writer))
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
        let body = Some(streamed(self.chunks));
        // What arrived is written out of its packs before there is an answer.
        let is_there = async || guest::is_there(endpoint).await;
        let sending = PATIENCE.exchange_while(&mut connection, Method::PUT, &request, body, is_there);
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
            Ok(response) => Err(unwelcome(PATIENCE.refusal(response).await).into()),
            Err(failure) => Err(failure.into()),
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

/// A guest that refuses a repository, with the way out where its user may not write there.
fn unwelcome(refusal: Failure) -> Failure {
    match refusal.code {
        Code::Denied => refusal.hint("--guest-path ~/repo is in the home of the VM's user"),
        _ => refusal,
    }
}

/// Where the agent says the workspace is.
async fn arrived(response: Response<Incoming>) -> Result<String> {
    let body = PATIENCE.collect(response.into_body(), MAX_BODY).await?;
    let Arrived { path } = guest::parse(&body)?;
    absolute(path)
}

/// A path as a guest gives it.
fn absolute(path: String) -> Result<String> {
    if path.starts_with('/') && plan::guest_path(&path).is_ok_and(|plain| plain == path) {
        Ok(path)
    } else {
        let path = guest::words(path.as_bytes());
        Err(Failure::new(Code::Guest, format!("{} says that the workspace is at {path:?}", guest::WHO)).into())
    }
}

/// Takes any bytes for what a guest says of a workspace, for [`crate::hostile`]: where it is, and the ids of what is there.
pub(crate) fn hear(answer: &[u8]) -> (Vec<Result<String>>, Vec<String>) {
    let stands = guest::parse(answer).map(|Place { path, .. }| path);
    let arrived = guest::parse(answer).map(|Arrived { path }| path);
    let paths = [stands, arrived].map(|path| absolute(path?));
    let ids = Looked::read(answer).into_iter().flat_map(|looked| {
        let Found { refs, shallow, whole, .. } = looked.found;
        let named = refs.is.into_values().chain(refs.brought.into_values()).chain(refs.missing);
        named.chain(shallow).chain(whole).chain(Some(refs.head).filter(|head| !head.is_empty()))
    });
    (paths.into(), ids.collect())
}

/// Brings what `packing` packs into a VM that is new. The files of a repository that came there with the image are overwritten,
/// and what its branches were stays.
pub(crate) async fn deliver_first(context: &Context, turn: &Turn, packing: Packing) -> Result<Workspace> {
    let (endpoint, plan) = (&turn.endpoint, packing.plan.clone());
    let place = look(endpoint, &plan).await?;
    if !place.occupied {
        return deliver(context, turn, packing).await;
    }
    drop(packing);
    let standing = stands(endpoint, &plan, &place.path, "").await?;
    let left = left_of(endpoint, &plan, &place.path, standing, Existing::Overwrite).await?;
    deliver_over(context, turn, plan, left).await
}

/// What is where the repository is to go.
async fn look(endpoint: &GuestEndpoint, plan: &Plan) -> Result<Place> {
    let at = format!("/workspace?path={}", segment(&plan.wish.guest_path));
    let place: Place = guest::get_from(endpoint, &at).await?;
    Ok(Place { path: absolute(place.path)?, ..place })
}

/// Brings what `packing` packs into the VM, where nothing stands in its way.
async fn deliver(context: &Context, turn: &Turn, packing: Packing) -> Result<Workspace> {
    let (endpoint, plan) = (&turn.endpoint, packing.plan.clone());
    let mut progress = Progress::new(&context.printer);
    progress.phase(&format!("bringing {}", plan.repository.root.display()));
    let by_agent = plan.wish.mode == Mode::Overlay;
    let path = packing.send(endpoint, &plan.wish.guest_path, by_agent, &mut progress).await?;
    finish(context, endpoint, &plan, path, &mut progress).await
}

/// Brings a repository into a VM that may have one already.
pub(crate) async fn prepare(context: &Context, turn: &Turn, plan: Arc<Plan>, existing: Existing) -> Result<Workspace> {
    let endpoint = &turn.endpoint;
    let place = look(endpoint, &plan).await?;
    let left = if place.occupied { make_room(endpoint, &plan, place, existing).await? } else { Leftovers::default() };
    deliver_over(context, turn, plan, left).await
}

/// Brings it over what leaves that behind, and says under which names work stays that was overwritten.
async fn deliver_over(context: &Context, turn: &Turn, plan: Arc<Plan>, left: Leftovers) -> Result<Workspace> {
    let saved: Vec<String> = left.saved().collect();
    let workspace = deliver(context, turn, Packing::begin(plan, left)).await?;
    if let Some(first) = saved.first() {
        context.printer.talk(&format!("work that was overwritten stays in the guest, as {}", some(first, saved.len())));
    }
    Ok(workspace)
}

/// What is left of the workspace that stands there; a refusal when it is not ours to change.
async fn make_room(endpoint: &GuestEndpoint, plan: &Arc<Plan>, place: Place, existing: Existing) -> Result<Leftovers> {
    let Place { path, unfinished, brought, .. } = place;
    let name = &endpoint.name;
    let known = endpoint.workspace.as_ref().filter(|workspace| workspace.guest_path == path);
    if known.is_none() && !unfinished && !brought {
        let failure = Failure::new(Code::Conflict, format!("{path} in VM {name} is in use"));
        return Err(failure.hint("--guest-path brings the repository elsewhere").into());
    }
    let base = known.and_then(|known| known.base_commit.as_deref()).unwrap_or_default();
    let standing = stands(endpoint, plan, &path, base).await?;
    if existing == Existing::Update {
        let cannot = |what: &str| Failure::new(Code::Conflict, format!("{path} in VM {name} {what}"));
        let refused = match &standing {
            _ if unfinished => Some(cannot("was brought in part: somebody interrupted it")),
            // Interrupted after the last file, or another place was recorded since.
            _ if known.is_none() => Some(cannot("was brought once, and the VM has no record of it")),
            Err(why) => {
                let failure = cannot("cannot be looked at, so that nobody knows whether it was worked in");
                Some(failure.cause(why.clone()))
            }
            Ok(standing) => {
                Some(&standing.work).filter(|work| !work.is_none()).map(|work| work.refuse(name.as_str(), &path))
            }
        };
        if let Some(failure) = refused {
            return Err(failure.hint("banger vm workspace prepare --force overwrites it").into());
        }
    }
    left_of(endpoint, plan, &path, standing, existing).await
}

/// What stands at `path`, which was brought as `base`; else why nobody can say.
async fn stands(
    endpoint: &GuestEndpoint,
    plan: &Plan,
    path: &str,
    base: &str,
) -> Result<std::result::Result<Standing, String>> {
    let mut standing = inspect(endpoint, path, base).await?;
    if let Ok(standing) = &mut standing {
        at_stake(plan, standing);
    }
    Ok(standing)
}

/// What is left of what stands at `path`.
async fn left_of(
    endpoint: &GuestEndpoint,
    plan: &Arc<Plan>,
    path: &str,
    standing: std::result::Result<Standing, String>,
    existing: Existing,
) -> Result<Leftovers> {
    let Ok(standing) = standing else {
        return Ok(Leftovers::unseen(plan, indexed(endpoint, path, plan.hash).await?)?);
    };
    let (plan, overwrite) = (plan.clone(), existing == Existing::Overwrite);
    let left = tokio::task::spawn_blocking(move || Leftovers::of(&plan, standing, overwrite)).await;
    Ok(left.map_err(|error| internal("cannot look at the repository", &error))??)
}

/// The files that the index in the guest names, as the agent reads it; none where it cannot.
async fn indexed(endpoint: &GuestEndpoint, path: &str, hash: HashName) -> Result<Vec<RepoPath>> {
    let mut connection = guest::connect(endpoint).await?;
    let request = format!("/workspace/files?path={}&hash={hash}", segment(path));
    let response = PATIENCE.exchange(&mut connection, Method::GET, &request, None).await?;
    if !response.status().is_success() {
        return Ok(Vec::new());
    }
    let listing = PATIENCE.collect(response.into_body(), checkout::MAX_NAMES).await?;
    Ok(pieces(&listing).map(<[u8]>::to_vec).collect())
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
            for (below, submodule) in plan.repositories().into_iter().skip(1) {
                let at = format!("{path}/{}", String::from_utf8_lossy(&below));
                checkout::checkout(endpoint, &at).await?;
                write_down(endpoint, &at, submodule).await?;
            }
        } else {
            progress.phase("sending its files: the guest has no git");
            let packing = Packing::with(plan.clone(), |plan, writer| stream::write_files(plan, writer));
            packing.send(endpoint, &path, false, progress).await?;
        }
    }
    if !plan.is_clean() {
        progress.phase("writing down the tree as it was brought");
    }
    let kept = write_down(endpoint, &path, plan).await?;
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

/// Has the guest's git write down what its HEAD does not say of the tree as it was brought; gives the commit that holds it.
async fn write_down(endpoint: &GuestEndpoint, path: &str, plan: &Plan) -> Result<Option<String>> {
    if plan.changes.unwatched {
        checkout::remember_assumed(endpoint, path).await?;
    }
    if plan.is_clean() {
        return Ok(None);
    }
    checkout::keep(endpoint, path, plan.commit.as_deref(), &plan.changes.untracked).await
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
