//! Leases: VMs that are deleted when the client that asked for them ends (`run --rm`).
//!
//! While the daemon that took the lease lives, the client's connection is the lease. A later daemon has no connection,
//! so it watches the client's process, proven by pid and start time.

use super::VmService;
use crate::{operation::Operation, store::Lease};
use banger_machine::{
    failpoint,
    process::{ProvenProcess, host_boot_id},
};
use banger_proto::{api::vm::VmState, failure::Failure};
use std::sync::Arc;
use tracing::Instrument as _;

impl VmService {
    /// Takes over the leases of an earlier daemon: a VM whose client has ended is deleted now, any other when its
    /// client ends. A VM that never became ready is kept.
    pub(super) async fn take_over_leases(self: &Arc<Self>) -> Result<(), Failure> {
        for lease in self.parts.store.leases().await? {
            let Some(row) = self.parts.store.vm(&lease.vm).await? else { continue };
            failpoint::hit("lease.found").await;
            if row.state == VmState::Failed && row.run.phases.is_empty() {
                self.parts.store.delete_lease(&lease.vm).await?;
                failpoint::hit("lease.ended").await;
                continue;
            }
            let service = self.clone();
            let operation = Operation::unwatched();
            let span = operation.span();
            tokio::spawn(
                async move {
                    holder_gone(&lease).await;
                    failpoint::hit("lease.over").await;
                    tracing::info!(vm = %lease.vm, client = lease.holder.pid, "a client is gone, and its VM goes too");
                    if let Err(failure) = service.delete(&lease.vm, true, &operation).await {
                        tracing::error!(vm = %lease.vm, %failure, "cannot delete a VM whose client is gone");
                    }
                }
                .instrument(span),
            );
        }
        Ok(())
    }
}

/// Waits until the process that holds a lease has ended.
async fn holder_gone(lease: &Lease) {
    let same_boot = host_boot_id().is_ok_and(|boot| boot == lease.host_boot_id);
    if !same_boot {
        return;
    }
    match ProvenProcess::open(lease.holder) {
        Ok(Some(process)) => {
            // A failed watch must not delete a VM in use: the VM then stays until somebody deletes it.
            if let Err(error) = process.ended().await {
                tracing::error!(%error, client = lease.holder.pid, "cannot watch a VM's client");
                std::future::pending::<()>().await;
            }
        }
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, client = lease.holder.pid, "cannot look for a VM's client");
            std::future::pending::<()>().await;
        }
    }
}
