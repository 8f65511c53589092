//! What was brought into VMs, over HTTP.

use super::{
    Shared,
    answer::{Body, Named, Refusal},
};
use axum::{Json, extract::State};
use banger_proto::{
    api::workspace::{RecordWorkspace, Workspace},
    failure::Failure,
};

/// Writes down the repository that was brought into a VM, in place of the one before.
#[utoipa::path(put, path = "/v1/vms/{ref}/workspace", tag = "vm", params(("ref" = String, Path)),
    request_body = RecordWorkspace, responses((status = 200, body = Workspace), (status = "4XX", body = Failure)))]
pub(super) async fn record(
    State(context): State<Shared>,
    Named(vm): Named,
    Body(said): Body<RecordWorkspace>,
) -> Result<Json<Workspace>, Refusal> {
    Ok(Json(context.services.vms.record_workspace(&vm, said).await?))
}
