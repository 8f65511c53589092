//! Starts what is missing of the network, around what still runs.

use super::{HelperError, Live, RETRY, retry, watch::watch};
use crate::network::{
    Shared, Uplink,
    helper::Helper,
    holder::{self, Record},
};
use banger_machine::{failpoint, process::ProcessIdentity};
use banger_proto::helper::Request;
use std::{collections::HashSet, io, path::Path, sync::Arc};

pub(super) async fn start(shared: &Arc<Shared>, old: Option<Live>) -> io::Result<Live> {
    let known = Record::read(&shared.state)?;
    let mut record = match known {
        Some(record) if record.holder.alive() => record,
        known => {
            let helper = old.as_ref().map(|live| live.helper.process());
            let member = match &known {
                Some(record) => member(shared, record.namespace, helper).await,
                None => None,
            };
            let pasta = known.and_then(|record| record.pasta).filter(ProcessIdentity::alive);
            // The uplink still works if the namespace is the same.
            let kept = pasta.filter(|_| member.is_some());
            if kept.is_none() {
                pasta.into_iter().for_each(holder::end);
            }
            holder::hold(&shared.helper, &shared.state, member, kept).await?
        }
    };
    // Closed before anything else may fail: the uplink may be from a time when the configuration had one.
    if shared.settings.uplink != Uplink::Auto {
        close(&mut record, &shared.state).await?;
    }
    if let Some(mut old) = old {
        old.end_tasks().await;
    }
    let helper = Helper::start(&shared.helper, record.holder)?;
    failpoint::hit("network.helped").await;
    let mut live = Live {
        record,
        helper,
        host: Vec::new(),
        networks: HashSet::new(),
        tasks: Vec::new(),
        resolves: false,
        followed: None,
        attempts: 0,
        pasta_retry: RETRY.0,
    };
    live.ensure(shared, 0).await.map_err(HelperError::into_io)?;
    failpoint::hit("network.ensured").await;
    let guests = shared.guests.all();
    let vms = guests.iter().map(|guest| guest.vm.clone()).collect();
    live.tell(&Request::Reconcile { vms }).await.map_err(HelperError::into_io)?;
    failpoint::hit("network.reconciled").await;
    shared.guests.clear_strays();
    if guests.is_empty() {
        // Reconciling with no VM also removes the tables.
        live.networks.clear();
        live.ensure(shared, 0).await.map_err(HelperError::into_io)?;
        failpoint::hit("network.ensured").await;
    }
    let mut refused = Vec::new();
    for guest in &guests {
        match live.attach(shared, guest).await {
            Ok(()) => failpoint::hit("network.placed").await,
            Err(HelperError::Refused(reason)) => {
                // The VM keeps its old rules; the others must not go without theirs because of it.
                tracing::error!(vm = %guest.name, reason, "a VM's network is not as it should be; it is tried again");
                refused.push(guest.vm.clone());
            }
            Err(HelperError::Broken(error)) => return Err(error),
        }
    }
    if !refused.is_empty() {
        live.tasks.push(tokio::spawn(retry::attach_refused(Arc::downgrade(shared), refused)));
    }
    live.uplink(shared).await;
    live.tasks.push(tokio::spawn(watch(Arc::downgrade(shared), live.record.holder, live.helper.process())));
    Ok(live)
}

/// Ends the uplink.
pub(super) async fn close(record: &mut Record, state: &Path) -> io::Result<()> {
    let Some(pasta) = record.pasta.take() else { return Ok(()) };
    holder::end(pasta);
    failpoint::hit("uplink.closed").await;
    record.write(state)
}

/// Finds a process that is still in the namespace now that its holder is gone.
async fn member(shared: &Shared, namespace: u64, helper: Option<ProcessIdentity>) -> Option<ProcessIdentity> {
    let rows = shared.store.vms().await.unwrap_or_default();
    let vmms = rows.iter().filter_map(|row| row.run.vmm_process);
    helper.into_iter().chain(vmms).find(|process| holder::namespace_of(*process) == Some(namespace))
}
