//! The daemon's view of the network, with a stream in place of its helper.

use super::*;
use crate::{
    network::{HostNetwork, Settings, Uplink, guests, helper, holder},
    store::tests::store,
};
use tokio::time::{Instant, sleep};

/// Upper bound for everything here.
pub(in crate::network) const SOON: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
pub(in crate::network) async fn wait(what: &str, fact: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !fact().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Network of a host, in a temporary directory.
pub(in crate::network) fn network(uplink: Uplink) -> (tempfile::TempDir, HostNetwork) {
    let (temp, store) = store();
    let block = "10.213.0.0/16".parse().unwrap();
    let settings = Settings { uplink, block, dns: Vec::new(), deny: Vec::new(), allow: Vec::new() };
    let place = temp.path().to_owned();
    let network = HostNetwork::new(settings, store, place.clone(), place, "/none".into());
    (temp, network)
}

/// Running network that consists only of its helper.
pub(in crate::network) fn live(helper: Helper) -> Live {
    Live {
        record: holder::tests::record(),
        helper,
        host: Vec::new(),
        networks: HashSet::new(),
        tasks: Vec::new(),
        resolves: true,
        followed: None,
        attempts: 0,
        pasta_retry: RETRY.0,
    }
}

#[tokio::test]
async fn a_bridge_that_may_be_gone_is_not_taken_for_there() {
    let (_temp, network) = network(Uplink::None);
    let shared = &network.shared;
    let (helper, stream) = helper::tests::silent();
    let (asked, refuse) = (Arc::default(), Answer::Failed { reason: "the second one is not banger's".into() });
    tokio::spawn(helper::tests::serve(stream, Arc::clone(&asked), refuse));
    let mut live = live(helper);
    live.networks.extend([0, 1, 2]);
    *shared.live.lock().await = Some(live);
    let [stays, gone] = [guests::tests::guest("a", 1, 2), guests::tests::guest("b", 2, 2)];
    shared.guests.insert(stays.clone());
    shared.guests.mark_stray(&gone.vm);
    retry::remove_strays(shared);
    wait("somebody to ask", async || !asked.lock().unwrap().is_empty()).await;
    // The task has its answer when it releases the lock.
    let slot = shared.live.lock().await;
    assert_eq!(slot.as_ref().unwrap().networks, HashSet::from([0, 1]));
    assert_eq!(asked.lock().unwrap()[0], Request::Reconcile { vms: vec![stays.vm] });
    assert!(shared.guests.has_strays(), "it is tried again");
}

#[tokio::test]
async fn nobody_leaves_before_it_is_known_who_is_there() {
    let (_temp, network) = network(Uplink::None);
    let shared = &network.shared;
    let mut holder = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let process = ProcessIdentity::of(holder.id().unwrap()).unwrap();
    let mut record = holder::tests::record();
    record.holder = process;
    record.write(&shared.state).unwrap();
    // One of two VMs was adopted, and its machine ended; the other is still waited for.
    let first = guests::tests::guest("a", 0, 2);
    shared.guests.insert(first.clone());
    detach(shared, &first.vm).await.unwrap();
    stop_if_unused(shared).await;
    assert!(process.alive() && Record::read(&shared.state).unwrap().is_some());
    // It did not come, so no VM needs the network.
    take_over(shared).await;
    holder.wait().await.unwrap();
    assert_eq!(Record::read(&shared.state).unwrap(), None);
}
