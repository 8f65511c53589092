//! Imports a planned repository into a running guest, and has the daemon record it.

use super::{
    changes::{RepoPath, split_nul},
    guest_git,
    guest_state::{GuestRepository, GuestState, RepositoryReport, some},
    import_lock::ImportLock,
    inspect::inspect,
    leftovers::{Leftovers, at_risk},
    plan::{self, ImportRequest, Plan},
    stream,
    upload::Upload,
};
use crate::{
    context::Context,
    exit::{Error, Result, internal},
    guest,
    http::segment,
    output::progress::Progress,
    stall::STALL_TIMEOUT,
};
use banger_proto::{
    agent::workspace::{Arrived, HashName, WorkspaceStatus},
    api::{
        vm::GuestEndpoint,
        workspace::{Mode, RecordWorkspace, Workspace},
    },
    failure::{Code, Failure},
};
use hyper::Method;
use std::sync::Arc;

/// Policy for a workspace that exists already in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Updated; refused when the guest changed it.
    Update,
    /// Overwritten, with the guest's changes.
    Overwrite,
}

/// Returns the request that made a recorded workspace, for importing it again.
pub(crate) fn repeat_request(workspace: &Workspace) -> ImportRequest {
    ImportRequest {
        path: workspace.source_path.clone().into(),
        mode: workspace.mode,
        branch: workspace.branch.clone(),
        from: workspace.from.clone(),
        include_untracked: workspace.include_untracked,
        guest_path: workspace.guest_path.clone(),
    }
}

/// Checks a path that a guest names: absolute and plain.
pub(super) fn absolute(path: String) -> Result<String> {
    if path.starts_with('/') && plan::guest_path(&path).is_ok_and(|plain| plain == path) {
        Ok(path)
    } else {
        let path = guest::excerpt(path.as_bytes());
        Err(Failure::new(Code::Guest, format!("{} says that the workspace is at {path:?}", guest::WHO)).into())
    }
}

/// Reads arbitrary bytes as a guest's answer about a workspace, for [`crate::fuzzing`]: returns the paths and the
/// object ids in it.
pub(crate) fn fuzz_read(answer: &[u8]) -> (Vec<Result<String>>, Vec<String>) {
    let status = guest::parse(answer).map(|WorkspaceStatus { path, .. }| path);
    let arrived = guest::parse(answer).map(|Arrived { path }| path);
    let paths = [status, arrived].map(|path| absolute(path?));
    let ids = RepositoryReport::read(answer).into_iter().flat_map(|report| {
        let GuestRepository { refs, shallow, with_parents, .. } = report.repository;
        let named = refs.current.into_values().chain(refs.imported.into_values()).chain(refs.missing);
        named.chain(shallow).chain(with_parents).chain(Some(refs.head).filter(|head| !head.is_empty()))
    });
    (paths.into(), ids.collect())
}

/// Imports the repository of `upload` into a VM that is new. A repository that came there with the image is
/// overwritten; its branches stay under other names.
pub(crate) async fn import_into_new(context: &Context, lock: &ImportLock, upload: Upload) -> Result<Workspace> {
    let (endpoint, plan) = (&lock.endpoint, upload.plan.clone());
    let status = status(endpoint, &plan).await?;
    if !status.occupied {
        return send(context, lock, upload).await;
    }
    drop(upload);
    let state = state_at(endpoint, &plan, &status.path, "").await?;
    let left = leftovers(endpoint, &plan, &status.path, state, Existing::Overwrite).await?;
    send_over(context, lock, plan, left).await
}

/// Imports a repository into a VM that may have one already.
pub(crate) async fn import(
    context: &Context,
    lock: &ImportLock,
    plan: Arc<Plan>,
    existing: Existing,
) -> Result<Workspace> {
    let endpoint = &lock.endpoint;
    let status = status(endpoint, &plan).await?;
    let left = if status.occupied { make_room(endpoint, &plan, status, existing).await? } else { Leftovers::default() };
    send_over(context, lock, plan, left).await
}

/// Asks the agent what is at the guest path of the repository.
async fn status(endpoint: &GuestEndpoint, plan: &Plan) -> Result<WorkspaceStatus> {
    let at = format!("/workspace?path={}", segment(&plan.request.guest_path));
    let status: WorkspaceStatus = guest::get_from(endpoint, &at).await?;
    Ok(WorkspaceStatus { path: absolute(status.path)?, ..status })
}

/// Sends a repository whose stream was made with `left`, and says under which names overwritten work stays.
async fn send_over(context: &Context, lock: &ImportLock, plan: Arc<Plan>, left: Leftovers) -> Result<Workspace> {
    let backups: Vec<String> = left.backups().collect();
    let workspace = send(context, lock, Upload::begin(plan, left)).await?;
    if let Some(first) = backups.first() {
        context
            .printer
            .note(&format!("work that was overwritten stays in the guest, as {}", some(first, backups.len())));
    }
    Ok(workspace)
}

async fn send(context: &Context, lock: &ImportLock, upload: Upload) -> Result<Workspace> {
    let (endpoint, plan) = (&lock.endpoint, upload.plan.clone());
    let mut progress = Progress::new(&context.printer);
    progress.phase(&format!("bringing {}", plan.repository.root.display()));
    let by_agent = plan.request.mode == Mode::Overlay;
    let path = upload.send(endpoint, &plan.request.guest_path, by_agent, &mut progress).await?;
    finish(context, endpoint, &plan, path, &mut progress).await
}

/// Works out what the workspace in the guest leaves behind. Refuses one that banger never imported, and, unless it may
/// be overwritten, one that holds work of the guest's, was interrupted or cannot be inspected.
async fn make_room(
    endpoint: &GuestEndpoint,
    plan: &Arc<Plan>,
    status: WorkspaceStatus,
    existing: Existing,
) -> Result<Leftovers> {
    let WorkspaceStatus { path, unfinished, brought: was_imported, .. } = status;
    let name = &endpoint.name;
    let known = endpoint.workspace.as_ref().filter(|workspace| workspace.guest_path == path);
    if known.is_none() && !unfinished && !was_imported {
        let failure = Failure::new(Code::Conflict, format!("{path} in VM {name} is in use"));
        return Err(failure.hint("--guest-path brings the repository elsewhere").into());
    }
    let base = known.and_then(|known| known.base_commit.as_deref()).unwrap_or_default();
    let state = state_at(endpoint, plan, &path, base).await?;
    if existing == Existing::Update {
        let cannot = |what: &str| Failure::new(Code::Conflict, format!("{path} in VM {name} {what}"));
        let refused = match &state {
            _ if unfinished => Some(cannot("was brought in part: somebody interrupted it")),
            // Interrupted after the last file, or another path was recorded since.
            _ if known.is_none() => Some(cannot("was brought once, and the VM has no record of it")),
            Err(why) => {
                let failure = cannot("cannot be looked at, so that nobody knows whether it was worked in");
                Some(failure.cause(why.clone()))
            }
            Ok(state) => Some(&state.changes)
                .filter(|changes| !changes.is_empty())
                .map(|changes| changes.refuse(name.as_str(), &path)),
        };
        if let Some(failure) = refused {
            return Err(failure.hint("banger vm workspace prepare --force overwrites it").into());
        }
    }
    leftovers(endpoint, plan, &path, state, existing).await
}

/// Inspects the workspace at `path`, which was imported as the commit `base`; the inner error says why it cannot be.
async fn state_at(
    endpoint: &GuestEndpoint,
    plan: &Plan,
    path: &str,
    base: &str,
) -> Result<std::result::Result<GuestState, String>> {
    let mut state = inspect(endpoint, path, base).await?;
    if let Ok(state) = &mut state {
        at_risk(plan, state);
    }
    Ok(state)
}

/// Works out what the workspace at `path` leaves behind.
async fn leftovers(
    endpoint: &GuestEndpoint,
    plan: &Arc<Plan>,
    path: &str,
    state: std::result::Result<GuestState, String>,
    existing: Existing,
) -> Result<Leftovers> {
    let Ok(state) = state else {
        return Ok(Leftovers::without_state(plan, indexed(endpoint, path, plan.hash).await?)?);
    };
    let (plan, overwrite) = (plan.clone(), existing == Existing::Overwrite);
    let left = tokio::task::spawn_blocking(move || Leftovers::of(&plan, state, overwrite)).await;
    Ok(left.map_err(|error| internal("cannot look at the repository", &error))??)
}

/// Asks the agent for the files that the index in the guest names; empty where the agent cannot read it.
async fn indexed(endpoint: &GuestEndpoint, path: &str, hash: HashName) -> Result<Vec<RepoPath>> {
    let mut connection = guest::connect(endpoint).await?;
    let request = format!("/workspace/files?path={}&hash={hash}", segment(path));
    let response = STALL_TIMEOUT.exchange(&mut connection, Method::GET, &request, None).await?;
    if !response.status().is_success() {
        return Ok(Vec::new());
    }
    let listing = STALL_TIMEOUT.collect(response.into_body(), guest_git::MAX_NAMES).await?;
    Ok(split_nul(&listing).map(<[u8]>::to_vec).collect())
}

/// Does what the agent does not: in full mode the guest's git, where there is one, writes the files of the repository
/// and its submodules; a commit keeps the tree as it was imported; and the daemon records the workspace.
async fn finish(
    context: &Context,
    endpoint: &GuestEndpoint,
    plan: &Arc<Plan>,
    path: String,
    progress: &mut Progress<'_>,
) -> Result<Workspace> {
    if plan.request.mode == Mode::Full {
        progress.phase("writing its files in the guest");
        if guest_git::checkout(endpoint, &path).await? {
            for (below, submodule) in plan.repositories().into_iter().skip(1) {
                let at = format!("{path}/{}", String::from_utf8_lossy(&below));
                guest_git::checkout(endpoint, &at).await?;
                record_base(endpoint, &at, submodule).await?;
            }
        } else {
            progress.phase("sending its files: the guest has no git");
            let upload = Upload::with(plan.clone(), |plan, writer| stream::write_files(plan, writer));
            upload.send(endpoint, &path, false, progress).await?;
        }
    }
    if !plan.is_clean() {
        progress.phase("writing down the tree as it was brought");
    }
    let base = record_base(endpoint, &path, plan).await?;
    let record = RecordWorkspace {
        guest_path: path,
        source_path: plan.repository.root.to_string_lossy().into_owned(),
        head_commit: plan.host_commit.clone(),
        base_commit: base.or_else(|| plan.commit.clone()),
        mode: plan.request.mode,
        branch: plan.request.branch.clone(),
        from: plan.request.from.clone(),
        include_untracked: plan.request.include_untracked,
    };
    let at = format!("/v1/vms/{}/workspace", segment(endpoint.id.as_str()));
    context.daemon().await?.put(&at, &record).await
}

/// Has the guest's git record how the imported tree differs from its HEAD. Returns the commit that holds the tree; none
/// when HEAD is that commit.
async fn record_base(endpoint: &GuestEndpoint, path: &str, plan: &Plan) -> Result<Option<String>> {
    if plan.changes.any_assumed {
        guest_git::record_assumed(endpoint, path).await?;
    }
    if plan.is_clean() {
        return Ok(None);
    }
    guest_git::commit_tree(endpoint, path, plan.commit.as_deref(), &plan.changes.untracked).await
}

/// Adds to the failure of an import that the VM was left running.
pub(crate) fn unfinished(error: Error, vm: &str) -> Error {
    match error {
        Error::Failed(failure) => {
            let left = format!("VM {vm} runs, without the repository or its tools: banger vm rm -f {vm} deletes it");
            Error::Failed(failure.hint(left))
        }
        other => other,
    }
}
