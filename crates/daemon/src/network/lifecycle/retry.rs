//! Retries of what failed, until it succeeds or nobody needs it.

use super::{HelperError, RETRY, ready};
use crate::network::Shared;
use banger_proto::{helper::Request, name::VmId};
use std::{
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
};
use tokio::time::sleep;

/// Starts what is missing of the network, if a VM needs it.
pub(super) fn once(shared: Arc<Shared>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut slot = shared.live.lock().await;
        if !shared.guests.is_empty()
            && let Err(error) = ready(&shared, &mut slot).await
        {
            tracing::error!(reason = error.to_string(), "the VMs' network is not as it should be; it is tried again");
        }
    })
}

/// Retries [`once`] after growing pauses until the network is running. Only one such task runs at a time; the caller
/// holds `shared.live`.
pub(super) fn until_ready(shared: &Arc<Shared>) {
    if shared.retrying.swap(true, Ordering::Relaxed) {
        return;
    }
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut pause = RETRY.0;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
            let Some(shared) = shared.upgrade() else { return };
            once(shared.clone()).await;
            let slot = shared.live.lock().await;
            if slot.is_some() || shared.guests.is_empty() {
                shared.retrying.store(false, Ordering::Relaxed);
                return;
            }
        }
    });
}

/// Retries to attach the VMs that the helper refused when it started, until it accepts them or they are gone.
pub(super) async fn attach_refused(shared: Weak<Shared>, mut refused: Vec<VmId>) {
    let mut pause = RETRY.0;
    while !refused.is_empty() {
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
        let Some(shared) = shared.upgrade() else { return };
        let mut slot = shared.live.lock().await;
        let Some(live) = slot.as_mut() else { return };
        let mut still = Vec::new();
        for vm in refused {
            let Some(guest) = shared.guests.by_vm(&vm) else { continue };
            match live.attach(&shared, &guest).await {
                Ok(()) => tracing::info!(vm = %guest.name, "a VM's network is as it should be"),
                Err(HelperError::Refused(_)) => still.push(vm),
                // The next helper is told of every VM.
                Err(HelperError::Broken(_)) => return,
            }
        }
        refused = still;
    }
}

/// Retries to remove what belongs to no VM, which the helper refused before. Bridges without a VM are removed with it.
pub(super) fn remove_strays(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut pause = RETRY.0;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
            let Some(shared) = shared.upgrade() else { return };
            let mut slot = shared.live.lock().await;
            // Nothing to do: the end of the network removes everything, and a helper that starts is told which VMs
            // exist.
            let Some(live) = slot.as_mut().filter(|_| shared.guests.has_strays()) else { return };
            let guests = shared.guests.all();
            if guests.is_empty() {
                // Either the network ends in a while, or another VM comes.
                continue;
            }
            let vms = guests.iter().map(|guest| guest.vm.clone()).collect();
            // Done before the outcome is known: a bridge that is still there is made again without harm.
            live.networks.retain(|network| *network == 0 || guests.iter().any(|guest| guest.slot.network == *network));
            match live.tell(&Request::Reconcile { vms }).await {
                Ok(()) => return shared.guests.clear_strays(),
                Err(error) => tracing::warn!(%error, "what is left of a VM's network cannot be removed"),
            }
        }
    });
}
