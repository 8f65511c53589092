//! What is noticed by itself: the end of a process, and another network around this host.

use super::{AGAIN, LOOK, RETRY, SETTLE, Trouble, ended, mend};
use crate::{
    network::{Shared, changes::Changes},
    shim::control::ProcessIdentity,
};
use banger_netlink::{Socket, route};
use banger_proto::{helper::MAX_HOST_ADDRESSES, network::is_public};
use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Mends the network when its holder or helper ends, and follows the host's own network.
pub(super) async fn watch(shared: Weak<Shared>, holder: ProcessIdentity, helper: ProcessIdentity) {
    tokio::select! {
        () = ended(holder) => tracing::warn!("the network's holder ended; another is started"),
        () = ended(helper) => tracing::warn!("the network helper ended; another is started"),
        () = follow_host(&shared) => return,
    }
    let Some(shared) = shared.upgrade() else { return };
    // From a task of its own: this one ends with the network it belongs to.
    tokio::spawn(mend::now(shared));
}

/// The host moves to another network, gets another address, starts a VPN: its addresses stay closed to guests, and a way
/// out that was missing is tried again.
async fn follow_host(shared: &Weak<Shared>) {
    let mut changes = listen();
    loop {
        // Before the first news too: nobody listened when the helper was told.
        let Some(strong) = shared.upgrade() else { return };
        let told = tell_host(&strong).await;
        drop(strong);
        if let Err(error) = &told {
            tracing::error!(%error, "the host's new addresses are not closed to guests; it is tried again");
        }
        if let Some(news) = &mut changes {
            let heard = if told.is_ok() { news.next().await } else { within(AGAIN, news.next()).await };
            if heard.is_err() {
                changes = listen();
            }
        } else {
            // Who hears nothing looks.
            sleep(LOOK).await;
            changes = Changes::subscribe().ok();
        }
        sleep(SETTLE).await;
    }
}

fn listen() -> Option<Changes> {
    let failed = |error: &io::Error| {
        tracing::error!(%error, "there is no news of this host's network; it is looked at every few seconds");
    };
    Changes::subscribe().inspect_err(failed).ok()
}

async fn within(patience: Duration, news: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(patience, news).await.unwrap_or(Ok(()))
}

/// Tells the helper of this host's addresses, if they are others than it knows.
async fn tell_host(shared: &Arc<Shared>) -> io::Result<()> {
    let mut slot = shared.live.lock().await;
    let Some(live) = slot.as_mut() else { return Ok(()) };
    if host_addresses()? != live.host {
        tracing::info!("this host's addresses changed");
        live.ensure(shared, 0).await.map_err(Trouble::into_io)?;
    }
    live.pasta_retry = RETRY.0;
    live.uplink(shared).await;
    Ok(())
}

/// The addresses that this host has on the public internet. Its others are closed to guests whoever's they are.
pub(super) fn host_addresses() -> io::Result<Vec<Ipv4Addr>> {
    to_be_closed(route::addresses(&mut Socket::route()?)?)
}

/// All of them or none: one that is left out would be open.
fn to_be_closed(mut addresses: Vec<Ipv4Addr>) -> io::Result<Vec<Ipv4Addr>> {
    addresses.retain(|address| is_public(*address));
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MAX_HOST_ADDRESSES {
        let count = addresses.len();
        let words = format!("this host has {count} public addresses, and {MAX_HOST_ADDRESSES} can be closed to guests");
        return Err(io::Error::other(words));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_public_addresses_are_closed_or_none_is() {
        let many = |count: usize| (0..count).map(|n| Ipv4Addr::from(0x0909_0000 + u32::try_from(n).unwrap())).collect();
        let private = ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1"].map(|address| address.parse().unwrap());
        let mut most: Vec<Ipv4Addr> = many(MAX_HOST_ADDRESSES);
        assert_eq!(to_be_closed([&most[..], &most, &private].concat()).unwrap(), most);
        most.push(Ipv4Addr::new(5, 5, 5, 5));
        let refused = to_be_closed(most).unwrap_err().to_string();
        assert_eq!(refused, "this host has 1025 public addresses, and 1024 can be closed to guests");
    }
}
