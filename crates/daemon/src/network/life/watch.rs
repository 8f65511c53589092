//! What is noticed by itself: the end of a process, and another network around this host.

use super::{RETRY, SETTLE, ended, ready};
use crate::{
    network::{Shared, changes::Changes},
    shim::control::ProcessIdentity,
};
use banger_netlink::{Socket, route};
use banger_proto::helper::MAX_HOST_ADDRESSES;
use std::{
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Weak},
};
use tokio::time::sleep;

/// Mends the network when its holder or helper ends, and follows the host's own network.
pub(super) async fn watch(shared: Weak<Shared>, holder: ProcessIdentity, helper: Option<ProcessIdentity>) {
    tokio::select! {
        () = ended(Some(holder)) => tracing::warn!("the network's holder ended; another is started"),
        () = ended(helper) => tracing::warn!("the network helper ended; another is started"),
        () = follow_host(&shared) => return,
    }
    let Some(shared) = shared.upgrade() else { return };
    // From a task of its own: this one ends with the network it belongs to.
    tokio::spawn(mend(shared));
}

/// The host moves to another network, gets another address, starts a VPN: its addresses stay closed to guests, and a way
/// out that was missing is tried again.
async fn follow_host(shared: &Weak<Shared>) {
    let Ok(mut changes) = Changes::subscribe() else { std::future::pending().await };
    loop {
        if changes.next().await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(SETTLE).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut slot = shared.live.lock().await;
        let Some(live) = slot.as_mut() else { continue };
        if host_addresses() != live.host {
            tracing::info!("this host's addresses changed");
            if let Err(error) = live.ensure(&shared, 0).await {
                tracing::error!(%error, "the host's new addresses are not closed to guests");
            }
        }
        live.pasta_retry = RETRY.0;
        live.uplink(&shared);
    }
}

/// Brings back what is missing, if a VM needs it.
fn mend(shared: Arc<Shared>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut slot = shared.live.lock().await;
        if !shared.guests.is_empty()
            && let Err(reason) = ready(&shared, &mut slot).await
        {
            tracing::error!(reason, "the VMs' network is not as it should be");
        }
    })
}

/// The addresses of this host, its loopback apart.
pub(super) fn host_addresses() -> Vec<Ipv4Addr> {
    let addresses = Socket::route().and_then(|mut socket| route::addresses(&mut socket)).unwrap_or_default();
    let mut addresses: Vec<Ipv4Addr> = addresses.into_iter().filter(|address| !address.is_loopback()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_HOST_ADDRESSES);
    addresses
}
