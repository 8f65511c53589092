//! Reconciliation at a daemon's start: running machines are adopted, ended ones are recorded, and what belongs to no VM
//! is removed.

use super::{
    VmService,
    owner::{outcome, published_at},
    release::{holds_machine, release, remove_flat, remove_sockets},
    set::network,
    sockets, stop,
};
use crate::{
    capability::{Depth, VmFiles},
    failures::because,
    store::VmRow,
};
use banger_machine::{
    failpoint,
    shim::{
        client::{Adopted, Shim},
        control::{ExitCause, ShimStatus},
        end_silent, revoke,
    },
};
use banger_proto::{
    api::vm::VmState,
    failure::{Code, Failure},
    name::VmId,
};
use futures_util::future::join_all;
use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

/// Time that killed processes of no known VM may take to end.
const STRAY_TIMEOUT: Duration = Duration::from_secs(10);

impl VmService {
    /// Makes the rows agree with the host, then gives every VM its task. Must be done before requests are answered.
    pub(crate) async fn reconcile(self: &Arc<Self>) -> Result<(), Failure> {
        let rows = self.parts.store.vms().await?;
        let known: HashSet<VmId> = rows.iter().map(|row| row.id.clone()).collect();
        // A shim may take a moment to answer; all of them are asked at the same time.
        join_all(rows.into_iter().map(|row| async move {
            let half_made = row.state == VmState::Created && !VmFiles::work_disk(&self.parts.layout, &row.id).exists();
            if half_made || row.run.deleting {
                self.remove_half_made(&row).await;
            } else {
                let (row, shim) = self.adopt_row(row).await;
                self.adopt(row, shim);
            }
        }))
        .await;
        self.sweep(Strays::States, &self.parts.layout.vms(), &known).await;
        self.sweep(Strays::Sockets, &self.parts.layout.run.join("v"), &known).await;
        self.take_over_leases().await?;
        failpoint::hit("adopt.done").await;
        Ok(())
    }

    /// Removes a VM whose daemon died before it had a disk (so its creation was never reported), or while it was being
    /// deleted.
    async fn remove_half_made(self: &Arc<Self>, row: &VmRow) {
        tracing::info!(vm = %row.name, deleting = row.run.deleting, "only half of it is there: it is taken away");
        failpoint::hit("adopt.unwanted").await;
        if let Err(failure) = release(&self.parts, &row.id, Depth::Everything).await {
            tracing::error!(vm = %row.name, %failure, "cannot take away a VM of which only half is there");
            self.adopt(row.clone(), None);
        }
    }

    async fn adopt_row(&self, mut row: VmRow) -> (VmRow, Option<Shim>) {
        if !row.state.is_live() && !holds_machine(&self.parts, &row.id).await {
            return (row, None);
        }
        failpoint::hit("adopt.row").await;
        let (state_dir, sockets) = (self.parts.layout.vm(&row.id), sockets::directory(&self.parts.layout, &row.id));
        let (state, reason) = match self.parts.shims.adopt(&sockets, &state_dir).await {
            Ok(Adopted::Running(shim)) => {
                let status = shim.status();
                if row.state == VmState::Stopping {
                    // The reason of a stop that did not come to its end.
                    row.reason = None;
                }
                row.state = adopted_state(row.state, &status);
                if status.ready.is_none() {
                    row.run.forget_boot();
                }
                row.run.shim = Some(status.shim);
                row.run.vmm_process = status.vmm;
                self.parts.network.adopt(&row);
                failpoint::hit("adopt.networked").await;
                if let Err(failure) = network::sync_ports(&self.parts.store, &row, &shim).await {
                    tracing::error!(vm = %row.name, %failure, "a port cannot be published as it was asked for");
                }
                row.run.published = published_at(&shim.status().published);
                failpoint::hit("adopt.found").await;
                tracing::info!(vm = %row.name, state = row.state.as_str(), "adopted");
                self.write(&row).await;
                failpoint::hit("adopt.written").await;
                return (row, Some(shim));
            }
            Ok(Adopted::Ended(record)) if row.state.is_live() => {
                let (state, reason) = outcome(&record);
                // A stop that ends a machine by force records the reason before it does.
                let forced =
                    row.reason.clone().filter(|why| row.state == VmState::Stopping && why.ends_with(stop::FORCED));
                (state, reason.or(forced.filter(|_| record.cause == ExitCause::Ended)))
            }
            Ok(Adopted::Gone(_)) if row.state.is_live() => (VmState::Failed, Some(gone_reason())),
            Ok(Adopted::Silent { shim, waited }) if row.state.is_live() => {
                let ended = end_silent(shim, waited, &state_dir).await;
                failpoint::hit("adopt.silenced").await;
                match ended {
                    Ok((record, text)) => {
                        let (state, reason) = outcome(&record);
                        (state, reason.or(Some(text)))
                    }
                    Err(text) => (VmState::Failed, Some(text)),
                }
            }
            // The machine never came to be, was given back already, or its end is recorded.
            Ok(Adopted::Ended(_) | Adopted::Gone(_) | Adopted::Silent { .. }) => (row.state, row.reason.clone()),
            // The machine may run, so it is not ended. A command that ends the VM looks for it again (see `readopt`).
            Err(error) => {
                let untold = because(Code::Unavailable, "whether it runs cannot be told", &error).to_string();
                tracing::error!(vm = %row.name, untold, "it is left alone");
                if row.state.is_live() {
                    self.parts.network.adopt(&row);
                    failpoint::hit("adopt.networked").await;
                    // The reason of a stop by force stays: it is how the machine ends.
                    row.reason.get_or_insert(untold);
                    self.write(&row).await;
                }
                return (row, None);
            }
        };
        tracing::info!(vm = %row.name, state = state.as_str(), reason, "its machine is gone or goes");
        (row.state, row.reason) = (state, reason);
        if let Err(failure) = release(&self.parts, &row.id, Depth::Machine).await {
            tracing::error!(vm = %row.name, %failure, "cannot give back all a machine held");
            if holds_machine(&self.parts, &row.id).await {
                (row.state, row.reason) = (VmState::Failed, Some(failure.to_string()));
            }
        }
        failpoint::hit("adopt.released").await;
        row.run.ended();
        self.write(&row).await;
        failpoint::hit("adopt.settled").await;
        (row, None)
    }

    async fn write(&self, row: &VmRow) {
        if let Err(error) = self.parts.store.update_vm(row).await {
            tracing::error!(vm = %row.name, %error, "cannot write a VM's state");
        }
    }

    /// Removes directories that are named like a VM's but have no row: the rest of an unfinished delete.
    async fn sweep(&self, strays: Strays, directory: &Path, known: &HashSet<VmId>) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<VmId>().ok()) else { continue };
            if known.contains(&id) {
                continue;
            }
            let path = entry.path();
            failpoint::hit(&format!("sweep.found.{}", strays.name())).await;
            let ended = revoke(&path, STRAY_TIMEOUT).await;
            failpoint::hit(&format!("sweep.ended.{}", strays.name())).await;
            if !matches!(ended, Ok(true)) {
                tracing::error!(path = %path.display(), ?ended, "cannot end what runs for no VM");
                continue;
            }
            match strays.remove(&path).await {
                Ok(()) => tracing::info!(path = %path.display(), "removed what belongs to no VM"),
                Err(failure) => {
                    tracing::error!(path = %path.display(), %failure, "cannot remove what belongs to no VM");
                }
            }
            failpoint::hit(&format!("sweep.removed.{}", strays.name())).await;
        }
    }
}

/// Directories that may be left of an unknown VM.
#[derive(Debug, Clone, Copy)]
enum Strays {
    /// State directories.
    States,
    /// Directories of sockets.
    Sockets,
}

impl Strays {
    fn name(self) -> &'static str {
        match self {
            Self::States => "states",
            Self::Sockets => "sockets",
        }
    }

    async fn remove(self, directory: &Path) -> Result<(), Failure> {
        match self {
            Self::States => remove_flat(directory),
            Self::Sockets => remove_sockets(directory).await,
        }
    }
}

/// Returns the state of a VM whose machine was found again.
fn adopted_state(before: VmState, status: &ShimStatus) -> VmState {
    // A guest that reboots counts as running, and may take as long as it does under a daemon that saw the reboot begin.
    // A stop is not resumed: the guest may still power off by itself, and that is then seen.
    let is_up = status.ready.is_some() || status.relaunches > 0;
    // A start that lost its daemon goes on even if the agent answers: what a guest gets after that may be missing.
    if is_up && before != VmState::Starting { VmState::Running } else { VmState::Starting }
}

/// Returns the reason of a machine that ended without an exit record.
pub(super) fn gone_reason() -> String {
    "its shim and its VMM are gone without a word: they were killed, or this host was restarted".to_owned()
}
