//! Workspaces and ssh access of VMs over HTTP.

use super::{
    Shared,
    answer::{Body, Named, Refusal, uncancelled},
};
use axum::{Json, extract::State};
use banger_proto::{
    api::{
        ssh::SshAccess,
        workspace::{RecordWorkspace, Workspace},
    },
    failure::Failure,
};

/// Records the repository that was imported into a VM, replacing the last record.
#[utoipa::path(put, path = "/v1/vms/{ref}/workspace", tag = "vm", params(("ref" = String, Path)),
    request_body = RecordWorkspace, responses((status = 200, body = Workspace), (status = "4XX", body = Failure)))]
pub(super) async fn record(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(said): Body<RecordWorkspace>,
) -> Result<Json<Workspace>, Refusal> {
    Ok(Json(context.services.vms.record_workspace(&vm, said).await?))
}

/// Returns the keys and files needed for ssh into a VM. Keys are made at the first request.
#[utoipa::path(post, path = "/v1/vms/{ref}/ssh", tag = "vm", params(("ref" = String, Path)),
    responses((status = 200, body = SshAccess), (status = "4XX", body = Failure)))]
pub(super) async fn ssh(State(context): State<Shared>, Named(vm): Named) -> Result<Json<SshAccess>, Refusal> {
    let row = context.services.vms.find(&vm).await?;
    Ok(Json(uncancelled(async move { context.services.ssh.access(&row).await }).await?))
}
