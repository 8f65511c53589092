//! Starting the network with its first VM, mending what dies, ending it after its last.
//!
//! ```text
//!  first attach   holder → record → helper → tables, bridge, resolver → pasta
//!  holder dies    another joins the same namespace through a VM's monitor (or the helper) that is still in it
//!  pasta dies     another, after a pause that grows
//!  helper dies    another; it is told of every VM again, which changes nothing that is right
//!  it fails       tried again, after a pause that grows, as long as a VM is attached: whoever dies meanwhile
//!  last detach    all of it ends, after a while in which the next VM may come
//! ```

mod retry;
mod start;
mod uplink;
mod watch;

use super::{Guest, Shared, dns, guests::Denials, helper::Helper, holder::Record};
use crate::{
    failpoint,
    process::{ProcessIdentity, ProvenProcess},
};
use banger_proto::{
    helper::{Answer, MAX_LEARNED, Request},
    name::VmId,
};
use std::{
    collections::HashSet,
    io,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{task::JoinHandle, time::sleep};

/// How long the network waits for another VM.
const LINGER: Duration = Duration::from_secs(20);
/// The pause before pasta is tried again, the first time; it doubles up to the other.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// How often, and how far apart, the resolver's address is asked for.
const BIND_TRIES: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// A host that changes its network does so in several steps.
const SETTLE: Duration = Duration::from_millis(300);
/// Before the helper is told again what it did not take.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the host's network is looked at where there is no news of it.
const LOOK: Duration = Duration::from_secs(5);

/// The network while it is there.
#[derive(Debug)]
pub(super) struct Live {
    record: Record,
    helper: Helper,
    /// This host's own addresses, as the helper knows them.
    host: Vec<Ipv4Addr>,
    /// Networks that have their bridge.
    networks: HashSet<u8>,
    tasks: Vec<JoinHandle<()>>,
    resolves: bool,
    /// The way out whose end is noticed.
    followed: Option<ProcessIdentity>,
    /// How often it was tried: one pause at a time leads to another attempt.
    attempts: u64,
    pasta_retry: Duration,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Attaches a VM, or changes its policy. Returns who holds the namespace; an error is a reason in words.
pub(super) async fn attach(shared: &Arc<Shared>, guest: Guest) -> Result<ProcessIdentity, String> {
    let mut slot = shared.live.lock().await;
    let attached = attach_retrying(shared, &mut slot, guest).await;
    if attached.is_err() && shared.guests.is_empty() {
        leave_later(shared);
    }
    attached
}

async fn attach_retrying(
    shared: &Arc<Shared>,
    slot: &mut Option<Live>,
    guest: Guest,
) -> Result<ProcessIdentity, String> {
    // A second try is for a helper that died since it was last used.
    for attempt in 0.. {
        let live = ready(shared, slot).await?;
        match live.attach(shared, &guest).await {
            Ok(()) => {
                let holder = live.record.holder;
                shared.guests.insert(guest);
                return Ok(holder);
            }
            Err(HelperError::Refused(reason)) => return Err(reason),
            Err(HelperError::Broken(error)) if attempt > 0 => return Err(error.to_string()),
            Err(HelperError::Broken(error)) => tracing::warn!(%error, "the network helper failed; another is started"),
        }
        live.end_tasks().await;
        slot.take();
    }
    unreachable!("the loop returns")
}

/// Detaches a VM. One that is refused is gone all the same for whoever asks for it, but its address stays its own until
/// what is there of it has been removed.
pub(super) async fn detach(shared: &Arc<Shared>, vm: &VmId) -> Result<(), String> {
    if shared.guests.by_vm(vm).is_none() && !shared.guests.is_stray(vm) {
        return Ok(());
    }
    let mut slot = shared.live.lock().await;
    shared.guests.remove(vm);
    let told = match slot.as_mut() {
        Some(live) => live.tell(&Request::DetachVm { vm: vm.clone() }).await,
        // The next helper removes what no VM has.
        None => Ok(()),
    };
    let detached = match told {
        Ok(()) => {
            shared.guests.no_stray(vm);
            Ok(())
        }
        Err(HelperError::Refused(reason)) => {
            if shared.guests.stray(vm) {
                retry::remove_strays(shared);
            }
            Err(reason)
        }
        Err(HelperError::Broken(error)) => {
            // The next one, which is started when this one's end is noticed, removes what no VM has.
            tracing::warn!(%error, "the network helper failed");
            shared.guests.no_stray(vm);
            Ok(())
        }
    };
    if shared.guests.is_empty() {
        leave_later(shared);
    }
    detached
}

/// Ends the network after a while, if nobody is attached then.
fn leave_later(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        sleep(LINGER).await;
        if let Some(shared) = shared.upgrade() {
            leave(&shared).await;
        }
    });
}

/// Ends the network if nobody is attached. While VMs are adopted somebody may be that is not known yet.
pub(super) async fn leave(shared: &Shared) {
    let mut slot = shared.live.lock().await;
    if !shared.taken_over.load(Ordering::Relaxed) || !shared.guests.is_empty() {
        return;
    }
    let record = match slot.take() {
        Some(live) => Some(live.record.clone()),
        None => Record::read(&shared.state).unwrap_or_default(),
    };
    shared.guests.no_strays();
    if let Some(record) = record
        && let Err(error) = record.end(&shared.state).await
    {
        tracing::warn!(%error, "the network cannot be ended");
    }
}

/// Takes over what an earlier daemon left, or ends it, now that all are known who are on it.
pub(super) async fn take_over(shared: &Arc<Shared>) {
    shared.taken_over.store(true, Ordering::Relaxed);
    if shared.guests.is_empty() {
        leave(shared).await;
        return;
    }
    let mut slot = shared.live.lock().await;
    if let Err(reason) = ready(shared, &mut slot).await {
        tracing::error!(reason, "the VMs' network is not as it should be");
    }
}

/// What was denied to an address.
pub(super) async fn denials(shared: &Arc<Shared>, address: Ipv4Addr) -> Result<Denials, String> {
    let mut slot = shared.live.lock().await;
    let Some(live) = slot.as_mut() else { return Ok(Denials::default()) };
    let vm = shared.guests.by_address(address).map(|guest| guest.vm.clone());
    let request = Request::Status { of: vm.clone() };
    let (answer, _) = live.helper.ask(&request).await.map_err(|error| error.to_string())?;
    let status = match answer {
        Answer::Status(status) => status,
        Answer::Failed { reason } => return Err(reason),
        Answer::Done | Answer::Resolver => return Err("the helper answered something else".to_owned()),
    };
    let named = |to| vm.as_ref().and_then(|vm| shared.guests.asked(vm, to));
    let own = status.denials.into_iter().filter(|denial| denial.from == address);
    Ok(Denials {
        packets: status.denied.iter().find(|(from, _)| *from == address).map_or(0, |(_, packets)| *packets),
        latest: own
            .map(|denial| {
                let name = named(denial.to);
                (denial, name)
            })
            .collect(),
    })
}

/// Opens addresses that a name resolved to, for a guest under the rules that it had when it asked. An error means that some
/// may be closed.
pub(super) async fn learn(
    shared: &Shared,
    guest: &Guest,
    rules: &[u8],
    addresses: &[Ipv4Addr],
    ttl: u32,
) -> Result<(), String> {
    let mut slot = shared.live.lock().await;
    let live = slot.as_mut().ok_or("there is no network")?;
    let vm = &guest.vm;
    // Rules are known by their numbers: of others they would be other ones.
    if shared.guests.by_vm(vm).is_none_or(|now| now.egress != guest.egress) {
        return Err("the VM's policy is another one now".to_owned());
    }
    for rule in rules {
        for some in addresses.chunks(MAX_LEARNED) {
            let request = Request::LearnAddresses { vm: vm.clone(), rule: *rule, addresses: some.to_vec(), ttl };
            live.tell(&request).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// The network, as it should be: whatever of it is missing is started.
async fn ready<'a>(shared: &Arc<Shared>, slot: &'a mut Option<Live>) -> Result<&'a mut Live, String> {
    let intact = slot.as_ref().is_some_and(|live| live.record.holder.alive() && live.helper.process().alive());
    if !intact {
        let old = slot.take();
        match start::start(shared, old).await {
            Ok(live) => *slot = Some(live),
            Err(error) => {
                // What is not there has no end that could be noticed.
                retry::until_ready(shared);
                return Err(error.to_string());
            }
        }
    }
    Ok(slot.as_mut().expect("it was just put there"))
}

/// Why the helper did not do it.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    /// It said no; it is of use still.
    #[error("{0}")]
    Refused(String),
    /// It is of no use any more.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

impl HelperError {
    fn into_io(self) -> io::Error {
        match self {
            Self::Refused(reason) => io::Error::other(reason),
            Self::Broken(error) => error,
        }
    }
}

impl Live {
    /// Ends what is done for it, and waits for that: another helper cannot bind the resolver's address before its sockets
    /// are closed.
    async fn end_tasks(&mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
    }

    async fn tell(&mut self, request: &Request) -> Result<(), HelperError> {
        match self.helper.ask(request).await? {
            (Answer::Failed { reason }, _) => Err(HelperError::Refused(reason)),
            // Nothing else answers this: `Helper::ask` sees to it.
            _ => Ok(()),
        }
    }

    /// Puts a VM on its network.
    async fn attach(&mut self, shared: &Arc<Shared>, guest: &Guest) -> Result<(), HelperError> {
        if !self.networks.contains(&guest.slot.network) {
            self.ensure(shared, guest.slot.network).await?;
            failpoint::hit("network.named").await;
        }
        self.tell(&Request::AttachVm(guest.attachment())).await
    }

    /// Makes a network, and answers names in it.
    async fn ensure(&mut self, shared: &Arc<Shared>, network: u8) -> Result<(), HelperError> {
        let host = watch::host_addresses().map_err(|error| HelperError::Refused(error.to_string()))?;
        let request = Request::EnsureNetwork { block: shared.settings.block, network, host: host.clone() };
        // The sockets of a resolver that is ending may be open for a moment still.
        for _ in 0..BIND_TRIES {
            match self.helper.ask(&request).await? {
                (Answer::Failed { reason }, _) => return Err(HelperError::Refused(reason)),
                (Answer::Resolver, descriptors) => self.answer_names(shared, descriptors)?,
                _ => {}
            }
            if self.resolves {
                break;
            }
            sleep(BIND_PAUSE).await;
        }
        if !self.resolves {
            return Err(HelperError::Broken(io::Error::other("the resolver's address is taken")));
        }
        self.host = host;
        self.networks.extend([0, network]);
        Ok(())
    }

    fn answer_names(&mut self, shared: &Arc<Shared>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let sockets: [OwnedFd; 2] = descriptors.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        self.tasks.extend(dns::serve(Arc::downgrade(shared), sockets)?);
        self.resolves = true;
        Ok(())
    }
}

/// Waits for a process's end.
async fn ended(process: ProcessIdentity) {
    match ProvenProcess::open(process) {
        Ok(Some(process)) => drop(process.ended().await),
        Ok(None) => {}
        // What cannot be watched is found out when it is next needed.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
pub(super) mod tests;
