//! Trying again what has failed, until it is done or nobody needs it.

use super::{HelperError, RETRY, ready};
use crate::network::Shared;
use banger_proto::{helper::Request, name::VmId};
use std::{
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
};
use tokio::time::sleep;

/// Brings back what is missing, if a VM needs it.
pub(super) fn once(shared: Arc<Shared>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut slot = shared.live.lock().await;
        if !shared.guests.is_empty()
            && let Err(reason) = ready(&shared, &mut slot).await
        {
            tracing::error!(reason, "the VMs' network is not as it should be; it is tried again");
        }
    })
}

/// Does so again and again, after pauses that grow, until everything is there. One such at a time: `shared.live` must be
/// locked.
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

/// Puts VMs on the network whom the helper refused when it began, until it takes them or they are gone.
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
                // The next helper is told of everybody.
                Err(HelperError::Broken(_)) => return,
            }
        }
        refused = still;
    }
}

/// Has what belongs to no VM removed, until the helper does it: it refused to. Bridges go along that nobody stands on.
pub(super) fn remove_strays(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut pause = RETRY.0;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
            let Some(shared) = shared.upgrade() else { return };
            let mut slot = shared.live.lock().await;
            // The end of the network takes everything with it, and a helper that starts is told who may have something.
            let Some(live) = slot.as_mut().filter(|_| shared.guests.has_strays()) else { return };
            let guests = shared.guests.all();
            if guests.is_empty() {
                // It ends in a while, or another VM comes.
                continue;
            }
            let vms = guests.iter().map(|guest| guest.vm.clone()).collect();
            // Before it is known how far the helper comes: a bridge that is there still is made again without harm.
            live.networks.retain(|network| *network == 0 || guests.iter().any(|guest| guest.slot.network == *network));
            match live.tell(&Request::Reconcile { vms }).await {
                Ok(()) => return shared.guests.no_strays(),
                Err(error) => tracing::warn!(%error, "what is left of a VM's network cannot be removed"),
            }
        }
    });
}
