//! Virtual machines over HTTP.

use super::{
    Shared,
    accept::Peer,
    answer::{Body, Named, Refusal, query, uncancelled},
    events::stream_of,
};
use crate::vm::{Op, StopCause};
use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use banger_machine::process::ProcessIdentity;
use banger_proto::{
    agent::http::MAX_GRACE,
    api::{
        event::Event,
        vm::{
            CreateVm, Egress, GuestEndpoint, KillVm, RestartVm, SetVm, Start, StartVm, StopVm, Vm, VmPort, VmStats,
            Wait,
        },
    },
    failure::{Code, Failure},
};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks of a console buffered for a slow client.
const LOG_BACKLOG: usize = 4;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Whether to list only VMs that have a VMM or are about to have one.
    #[serde(default)]
    running: bool,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Force {
    /// Whether to include VMs that run and kernels that are in use.
    #[serde(default)]
    pub(super) force: bool,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Logs {
    /// Number of lines to return, from the end.
    #[serde(default)]
    tail: Option<usize>,
    /// Whether to follow until the VM's machine ends; a restart ends it too.
    #[serde(default)]
    follow: bool,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GuestQuery {
    /// Whether the request does not count as a use of the VM.
    #[serde(default)]
    look: bool,
}

type Queried<T> = Result<Query<T>, QueryRejection>;

/// Lists all VMs, oldest first.
#[utoipa::path(get, path = "/v1/vms", tag = "vm", params(Listing), responses((status = 200, body = Vec<Vm>)))]
pub(super) async fn list(State(context): State<Shared>, listing: Queried<Listing>) -> Result<Json<Vec<Vm>>, Refusal> {
    let Listing { running } = query(listing)?;
    Ok(Json(context.services.vms.list(running).await?))
}

/// Shows one VM, by name, id or unique prefix of its id.
#[utoipa::path(get, path = "/v1/vms/{ref}", tag = "vm", params(("ref" = String, Path)),
    responses((status = 200, body = Vm), (status = "4XX", body = Failure)))]
pub(super) async fn show(State(context): State<Shared>, Named(vm): Named) -> Result<Json<Vm>, Refusal> {
    Ok(Json(context.services.vms.show(&vm).await?))
}

/// Creates a VM, and starts it if requested. With `start: leased` the VM is deleted when the client closes the stream.
#[utoipa::path(post, path = "/v1/vms", tag = "vm", request_body = CreateVm,
    responses((status = 200, body = Event<Vm>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn create(
    State(context): State<Shared>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<CreateVm>,
) -> Result<Response, Refusal> {
    let holder = peer.0.pid().and_then(|pid| u32::try_from(pid).ok()).and_then(ProcessIdentity::of);
    Ok(stream_of(context.stop.clone(), async move |operation, client| {
        let leased = request.start == Start::Leased;
        let vm = context.services.vms.create(request, holder, &operation).await?;
        if !leased {
            return Ok(Some(vm));
        }
        let id = vm.id.clone();
        client.tell(&Event::Ready { result: vm }).await;
        operation.cancel().cancelled().await;
        // A daemon that is told to end leaves VMs running; the next one takes over the lease.
        if !context.stop.is_cancelled() {
            context.services.vms.delete(&id, true, &operation).await?;
        }
        Ok(None)
    }))
}

/// Deletes a VM and its disk.
#[utoipa::path(delete, path = "/v1/vms/{ref}", tag = "vm", params(("ref" = String, Path), Force),
    responses((status = 200, body = Event<serde_json::Value>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn delete(
    State(context): State<Shared>,
    Named(vm): Named,
    force: Queried<Force>,
) -> Result<Response, Refusal> {
    let Force { force } = query(force)?;
    let id = context.services.vms.find(&vm).await?.id;
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        context.services.vms.delete(&id, force, &operation).await
    }))
}

/// Changes a VM. New sizes of a running one take effect at its next start.
#[utoipa::path(patch, path = "/v1/vms/{ref}", tag = "vm", params(("ref" = String, Path)), request_body = SetVm,
    responses((status = 200, body = Event<Vm>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn set(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(body): Body<SetVm>,
) -> Result<Response, Refusal> {
    change(context, vm, Op::Set(body)).await
}

/// Starts a VM.
#[utoipa::path(post, path = "/v1/vms/{ref}/start", tag = "vm", params(("ref" = String, Path)), request_body = StartVm,
    responses((status = 200, body = Event<Vm>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn start(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(body): Body<StartVm>,
) -> Result<Response, Refusal> {
    change(context, vm, Op::Start { wait: Wait::Agent, overcommit: body.overcommit }).await
}

/// Stops a VM in order; its data is on its disk afterwards.
#[utoipa::path(post, path = "/v1/vms/{ref}/stop", tag = "vm", params(("ref" = String, Path)), request_body = StopVm,
    responses((status = 200, body = Event<Vm>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn stop(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(body): Body<StopVm>,
) -> Result<Response, Refusal> {
    change(context, vm, Op::Stop { grace: grace(body.grace_ms)?, cause: StopCause::Asked }).await
}

/// Stops and starts a VM: a fresh kernel.
#[utoipa::path(post, path = "/v1/vms/{ref}/restart", tag = "vm", params(("ref" = String, Path)), request_body = RestartVm,
    responses((status = 200, body = Event<Vm>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn restart(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(body): Body<RestartVm>,
) -> Result<Response, Refusal> {
    change(context, vm, Op::Restart { grace: grace(body.grace_ms)?, overcommit: body.overcommit }).await
}

/// Sends a signal to a VM's VMM.
#[utoipa::path(post, path = "/v1/vms/{ref}/kill", tag = "vm", params(("ref" = String, Path)), request_body = KillVm,
    responses((status = 200, body = Event<Vm>, content_type = "application/x-ndjson"), (status = "4XX", body = Failure)))]
pub(super) async fn kill(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(body): Body<KillVm>,
) -> Result<Response, Refusal> {
    change(context, vm, Op::Kill { signal: body.signal }).await
}

/// Returns the endpoint of a VM's agent, when it answers.
#[utoipa::path(get, path = "/v1/vms/{ref}/guest", tag = "vm", params(("ref" = String, Path), GuestQuery),
    responses((status = 200, body = GuestEndpoint), (status = "4XX", body = Failure)))]
pub(super) async fn guest(
    State(context): State<Shared>,
    Named(vm): Named,
    look: Queried<GuestQuery>,
) -> Result<Json<GuestEndpoint>, Refusal> {
    let GuestQuery { look } = query(look)?;
    Ok(Json(context.services.vms.guest(&vm, look).await?))
}

/// Reports the resources a VM uses, and its guest's own statistics.
#[utoipa::path(get, path = "/v1/vms/{ref}/stats", tag = "vm", params(("ref" = String, Path)),
    responses((status = 200, body = VmStats), (status = "4XX", body = Failure)))]
pub(super) async fn stats(State(context): State<Shared>, Named(vm): Named) -> Result<Json<VmStats>, Refusal> {
    Ok(Json(context.services.vms.stats(&vm).await?))
}

/// Lists listening sockets in the guest, and where ports are published.
#[utoipa::path(get, path = "/v1/vms/{ref}/ports", tag = "vm", params(("ref" = String, Path)),
    responses((status = 200, body = Vec<VmPort>), (status = "4XX", body = Failure)))]
pub(super) async fn ports(State(context): State<Shared>, Named(vm): Named) -> Result<Json<Vec<VmPort>>, Refusal> {
    Ok(Json(context.services.vms.ports(&vm).await?))
}

/// Reports what a VM may reach, and which packets were denied.
#[utoipa::path(get, path = "/v1/vms/{ref}/egress", tag = "vm", params(("ref" = String, Path)),
    responses((status = 200, body = Egress), (status = "4XX", body = Failure)))]
pub(super) async fn egress(State(context): State<Shared>, Named(vm): Named) -> Result<Json<Egress>, Refusal> {
    Ok(Json(uncancelled(async move { context.services.vms.egress(&vm).await }).await?))
}

/// Streams the serial console's bytes, as the guest wrote them.
///
/// A line in brackets marks lost bytes that were gone before they were read.
#[utoipa::path(get, path = "/v1/vms/{ref}/logs", tag = "vm", params(("ref" = String, Path), Logs),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = "4XX", body = Failure)))]
pub(super) async fn logs(
    State(context): State<Shared>,
    Named(vm): Named,
    logs: Queried<Logs>,
) -> Result<Response, Refusal> {
    let Logs { tail, follow } = query(logs)?;
    let id = context.services.vms.find(&vm).await?.id;
    let changes = context.services.vms.watch_state(&id);
    let (pieces, receiver) = mpsc::channel(LOG_BACKLOG);
    tokio::spawn(crate::vm::send_console(context.layout.vm(&id), tail, follow, changes, pieces));
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    Ok(([(CONTENT_TYPE, "application/octet-stream")], axum::body::Body::from_stream(body)).into_response())
}

/// Resolves the VM first, so that an unknown one is refused and not reported as an event.
async fn change(context: Shared, vm: String, op: Op) -> Result<Response, Refusal> {
    let id = context.services.vms.find(&vm).await?.id;
    Ok(stream_of(context.stop.clone(), async move |operation, _| {
        context.services.vms.change(id.as_str(), op, &operation).await
    }))
}

/// How long a guest may take to go down; a longer grace than a guest can get is refused.
fn grace(ms: Option<u64>) -> Result<Option<Duration>, Failure> {
    let grace = ms.map(Duration::from_millis);
    match grace {
        Some(grace) if grace > MAX_GRACE => {
            Err(Failure::new(Code::Invalid, format!("a stop takes at most {} s", MAX_GRACE.as_secs())))
        }
        _ => Ok(grace),
    }
}
