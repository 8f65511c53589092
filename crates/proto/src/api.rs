//! The daemon's HTTP API over its unix socket: `/v1/...`, JSON bodies.
//!
//! ```text
//! GET    /v1/version                    → host::Version
//! GET    /v1/daemon                     → host::DaemonStatus
//! POST   /v1/daemon/stop                → host::DaemonStatus; VMs keep running
//! GET    /v1/config                     → [host::Setting]
//! GET    /v1/system/df                  → host::DiskUsage
//! GET    /v1/openapi.json
//!
//! GET    /v1/vms[?running=true]         → [vm::Vm]
//! POST   /v1/vms            vm::CreateVm → events; the result is vm::Vm
//! GET    /v1/vms/{ref}                  → vm::Vm
//! PATCH  /v1/vms/{ref}         vm::SetVm → events; the result is vm::Vm, whose `pending` waits for the next start
//! DELETE /v1/vms/{ref}[?force=true]     → events; the result is `null`. Without `force` a VM with a VMM is refused
//!                                         (`conflict`); with it the VMM is killed, not shut down: its disk goes too,
//!                                         so there is nothing to save
//! POST   /v1/vms/{ref}/start  vm::StartVm → events; the result is vm::Vm
//! POST   /v1/vms/{ref}/stop    vm::StopVm → events; likewise
//! POST   /v1/vms/{ref}/restart vm::RestartVm → events; likewise
//! POST   /v1/vms/{ref}/kill    vm::KillVm → events; likewise
//! GET    /v1/vms/{ref}/guest[?look=true] → vm::GuestEndpoint, when the agent answers; counts as a use of the VM
//!                                         unless it is only to have a look
//! POST   /v1/vms/{ref}/ssh              → ssh::SshAccess; keys are made when they are first asked for
//! PUT    /v1/vms/{ref}/workspace workspace::RecordWorkspace → workspace::Workspace: the imported repository
//! GET    /v1/vms/{ref}/stats            → vm::VmStats
//! GET    /v1/vms/{ref}/ports            → [vm::VmPort]
//! GET    /v1/vms/{ref}/egress           → vm::Egress
//! GET    /v1/vms/{ref}/logs?tail=N&follow=true → the console's bytes
//!
//! GET    /v1/images                     → [artifact::Image]      GET /v1/images/{ref} → artifact::Image
//! POST   /v1/images/pull  artifact::PullImage → events; the result is artifact::Image
//! POST   /v1/images/register artifact::RegisterImage → events; likewise
//! POST   /v1/images/build artifact::BuildImage → events; likewise
//! POST   /v1/images/{ref}/promote       → events; likewise
//! POST   /v1/images/{ref}/bundle artifact::BundleImage → events; the result is artifact::ImageBundle
//! POST   /v1/images/cache/prune[?dry_run=true] → artifact::CachePruned
//! DELETE /v1/images/{ref}               → events; a name goes, an image with its last name or by its id
//! GET    /v1/image-catalogs             → [artifact::ImageCatalog]: what they offer, and which cannot be read
//! GET    /v1/kernels[?available=true]   → [artifact::Kernel]; with `available` the catalogs' too
//! GET    /v1/kernels/{name}[?verify=true] → artifact::Kernel; with `verify` every byte is compared with its manifest
//! GET    /v1/kernel-catalogs            → [artifact::KernelCatalog]: which there are, and which cannot be read
//! POST   /v1/kernels/pull artifact::PullKernel → events; the result is artifact::Kernel
//! POST   /v1/kernels/import artifact::ImportKernel → events; likewise
//! DELETE /v1/kernels/{name}[?force=true] → 204; without `force` one that is in use is refused (`conflict`)
//! ```
//!
//! A `{ref}` is one percent-encoded path segment (image names hold `/` and `:`).
//!
//! *events* is `application/x-ndjson`, one [`event::Event`] a line, the last one `done` or `failed`; a client that goes
//! away cancels the operation. A refused request has a [`crate::failure::Failure`] as its body and one status per code
//! ([`http_status`]).

pub mod artifact;
pub mod event;
pub mod guest;
pub mod host;
pub mod ssh;
pub mod vm;
pub mod workspace;

use crate::failure::Code;

/// Version of this API, also in the paths. Additions keep it.
pub const API_VERSION: u32 = 1;
/// Largest request body, in bytes.
pub const MAX_REQUEST: usize = 4 << 20;
/// Header a client sends its own version in.
pub const CLIENT_VERSION_HEADER: &str = "banger-client-version";

/// The HTTP status of a failure.
pub fn http_status(code: Code) -> u16 {
    match code {
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Conflict => 409,
        Code::Invalid => 400,
        Code::Denied => 403,
        Code::Unsupported => 501,
        Code::Unavailable => 503,
        Code::Timeout => 504,
        Code::Guest => 502,
        Code::Internal => 500,
    }
}
