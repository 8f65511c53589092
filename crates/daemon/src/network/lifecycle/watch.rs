//! What is noticed by itself: the end of a process, and another network around this host.

use super::{AGAIN, HelperError, LOOK, RETRY, SETTLE, ended, retry};
use crate::{
    network::{Shared, changes::Changes},
    process::ProcessIdentity,
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
    tokio::spawn(retry::once(shared));
}

/// The host moves to another network, gets another address, starts a VPN: its addresses stay closed to guests, and a way
/// out that was missing is tried again.
async fn follow_host(shared: &Weak<Shared>) {
    let mut changes = listen();
    // Before the first news too: nobody listened when the helper was told.
    let mut heard = true;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let told = tell_host(&strong, heard).await;
        drop(strong);
        // What nobody could be told is news still.
        let owed = heard && told.is_err();
        if let Err(error) = &told {
            tracing::error!(%error, "the host's new addresses are not closed to guests; it is tried again");
        }
        if let Some(news) = &mut changes {
            let next = if told.is_ok() { news.next().await.map(|()| true) } else { within(AGAIN, news.next()).await };
            if next.is_err() {
                changes = listen();
            }
            // What was lost may have been news.
            heard = owed || next.unwrap_or(true);
        } else {
            // Who hears nothing looks.
            sleep(LOOK).await;
            changes = Changes::subscribe().ok();
            heard = owed || changes.is_some();
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

/// Whether there was any.
async fn within(patience: Duration, news: impl Future<Output = io::Result<()>>) -> io::Result<bool> {
    timeout(patience, news).await.map_or(Ok(false), |news| news.map(|()| true))
}

/// Tells the helper of this host's addresses, if they are others than it knows. A way out that is missing is tried at once
/// if there is reason to: it is tried after pauses that grow without one.
async fn tell_host(shared: &Arc<Shared>, heard: bool) -> io::Result<()> {
    let mut slot = shared.live.lock().await;
    let Some(live) = slot.as_mut() else { return Ok(()) };
    let moved = host_addresses()? != live.host;
    if moved {
        tracing::info!("this host's addresses changed");
        live.ensure(shared, 0).await.map_err(HelperError::into_io)?;
    }
    if moved || heard {
        live.pasta_retry = RETRY.0;
        live.uplink(shared).await;
    }
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
        for (heard, retry) in [(false, RETRY.1), (true, RETRY.0)] {
            tell_host(&network.shared, heard).await.unwrap();
            assert_eq!(network.shared.live.lock().await.as_ref().unwrap().pasta_retry, retry, "{heard}");
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
        // It is somewhere else for a moment.
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
        assert_eq!(to_be_closed([&most[..], &most, &private].concat()).unwrap(), most);
        most.push(Ipv4Addr::new(5, 5, 5, 5));
        let refused = to_be_closed(most).unwrap_err().to_string();
        assert_eq!(refused, "this host has 1025 public addresses, and 1024 can be closed to guests");
    }
}
