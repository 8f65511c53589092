//! Watches the network's processes and the host's own network.

use super::{AGAIN, HelperError, LOOK, RETRY, SETTLE, ended, retry};
use crate::network::{Shared, changes::Changes};
use banger_machine::process::ProcessIdentity;
use banger_netlink::{Socket, route};
use banger_proto::{helper::MAX_HOST_ADDRESSES, network::is_public};
use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Replaces the network's holder or helper when it ends, and follows changes of the host's network.
pub(super) async fn watch(shared: Weak<Shared>, holder: ProcessIdentity, helper: ProcessIdentity) {
    tokio::select! {
        () = ended(holder) => tracing::warn!("the network's holder ended; another is started"),
        () = ended(helper) => tracing::warn!("the network helper ended; another is started"),
        () = follow_host(&shared) => return,
    }
    let Some(shared) = shared.upgrade() else { return };
    // A task of its own: this one ends with the network it belongs to.
    tokio::spawn(retry::once(shared));
}

/// Follows the host to another network, address or VPN: its new addresses are closed to guests too, and a missing
/// uplink is retried.
async fn follow_host(shared: &Weak<Shared>) {
    let mut changes = subscribe();
    // True at first: the host may have changed before the subscription.
    let mut notified = true;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let sent = send_host_addresses(&strong, notified).await;
        drop(strong);
        // A change that could not be sent to the helper is still pending.
        let unsent = notified && sent.is_err();
        if let Err(error) = &sent {
            tracing::error!(%error, "the host's new addresses are not closed to guests; it is tried again");
        }
        if let Some(news) = &mut changes {
            let next = if sent.is_ok() { news.next().await.map(|()| true) } else { within(AGAIN, news.next()).await };
            if next.is_err() {
                changes = subscribe();
            }
            // Lost notifications may have been changes.
            notified = unsent || next.unwrap_or(true);
        } else {
            // Without notifications the addresses are polled.
            sleep(LOOK).await;
            changes = Changes::subscribe().ok();
            notified = unsent || changes.is_some();
        }
        sleep(SETTLE).await;
    }
}

fn subscribe() -> Option<Changes> {
    let failed = |error: &io::Error| {
        tracing::error!(%error, "there is no news of this host's network; it is looked at every few seconds");
    };
    Changes::subscribe().inspect_err(failed).ok()
}

/// Waits for a notification up to `limit`; returns whether one came.
async fn within(limit: Duration, next: impl Future<Output = io::Result<()>>) -> io::Result<bool> {
    timeout(limit, next).await.map_or(Ok(false), |news| news.map(|()| true))
}

/// Sends the helper this host's addresses if they differ from those it knows. A missing uplink is retried at once if
/// there is a reason; without one it is retried after growing pauses.
async fn send_host_addresses(shared: &Arc<Shared>, notified: bool) -> io::Result<()> {
    let mut slot = shared.live.lock().await;
    let Some(live) = slot.as_mut() else { return Ok(()) };
    let moved = host_addresses()? != live.host;
    if moved {
        tracing::info!("this host's addresses changed");
        live.ensure(shared, 0).await.map_err(HelperError::into_io)?;
    }
    if moved || notified {
        live.pasta_retry = RETRY.0;
        live.uplink(shared).await;
    }
    Ok(())
}

/// The host's own addresses on the public internet. Its other addresses are closed to guests anyway.
pub(super) fn host_addresses() -> io::Result<Vec<Ipv4Addr>> {
    public_addresses(route::addresses(&mut Socket::route()?)?)
}

/// All public addresses, or an error: one that is left out would be open.
fn public_addresses(mut addresses: Vec<Ipv4Addr>) -> io::Result<Vec<Ipv4Addr>> {
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
    use crate::network::{
        Uplink, helper,
        lifecycle::tests::{self, wait},
    };
    use banger_proto::helper::Answer;

    #[tokio::test]
    async fn a_look_that_finds_nothing_new_is_no_reason_to_hurry() {
        let (_temp, network) = tests::network(Uplink::None);
        let (helper, _theirs) = helper::tests::silent();
        let mut live = tests::live(helper);
        (live.host, live.pasta_retry) = (host_addresses().unwrap(), RETRY.1);
        *network.shared.live.lock().await = Some(live);
        for (notified, retry) in [(false, RETRY.1), (true, RETRY.0)] {
            send_host_addresses(&network.shared, notified).await.unwrap();
            assert_eq!(network.shared.live.lock().await.as_ref().unwrap().pasta_retry, retry, "{notified}");
        }
    }

    #[tokio::test]
    async fn what_could_not_be_told_is_news_still() {
        let (_temp, network) = tests::network(Uplink::None);
        let shared = &network.shared;
        let (helper, stream) = helper::tests::silent();
        let (asked, refuse) = (Arc::default(), Answer::Failed { reason: "not now".into() });
        tokio::spawn(helper::tests::serve(stream, Arc::clone(&asked), refuse));
        let mut live = tests::live(helper);
        // The host seems to be somewhere else for a moment.
        live.host = vec![Ipv4Addr::new(9, 9, 9, 9)];
        *shared.live.lock().await = Some(live);
        let weak = Arc::downgrade(shared);
        tokio::spawn(async move { follow_host(&weak).await });
        wait("a helper that refuses", async || !asked.lock().unwrap().is_empty()).await;
        {
            let mut slot = shared.live.lock().await;
            let live = slot.as_mut().unwrap();
            (live.host, live.pasta_retry) = (host_addresses().unwrap(), RETRY.1);
        }
        wait("another attempt at once", async || shared.live.lock().await.as_ref().unwrap().pasta_retry == RETRY.0)
            .await;
    }

    #[test]
    fn all_public_addresses_are_closed_or_none_is() {
        let many = |count: usize| (0..count).map(|n| Ipv4Addr::from(0x0909_0000 + u32::try_from(n).unwrap())).collect();
        let private = ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1"].map(|address| address.parse().unwrap());
        let mut most: Vec<Ipv4Addr> = many(MAX_HOST_ADDRESSES);
        assert_eq!(public_addresses([&most[..], &most, &private].concat()).unwrap(), most);
        most.push(Ipv4Addr::new(5, 5, 5, 5));
        let refused = public_addresses(most).unwrap_err().to_string();
        assert_eq!(refused, "this host has 1025 public addresses, and 1024 can be closed to guests");
    }
}
