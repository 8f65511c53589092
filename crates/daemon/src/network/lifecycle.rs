//! Starts the network with its first VM, replaces what dies, and ends it after the last VM.
//!
//! ```text
//!  first attach   holder → record → helper → tables, bridge, resolver → pasta
//!  holder dies    another joins the same namespace through a VM's VMM (or the helper) that is still in it
//!  pasta dies     another, after a growing pause
//!  helper dies    another; it is told of every VM again, which changes nothing that is right
//!  it fails       retried after a growing pause as long as a VM is attached, whatever else dies meanwhile
//!  last detach    all of it ends, after a while in which the next VM may come
//! ```

mod retry;
mod start;
mod uplink;
mod watch;

use super::{Guest, Shared, dns, guests::Denials, helper::Helper, holder::Record};
use banger_machine::{
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

/// How long the network stays after its last VM.
const LINGER: Duration = Duration::from_secs(20);
/// First pause before pasta is retried, and the upper bound up to which it doubles.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// How often the resolver's address is tried to be bound, and the pause in between.
const BIND_TRIES: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Pause after a change of the host's network, which comes in several steps.
const SETTLE: Duration = Duration::from_millis(300);
/// Pause before the helper is sent again what it refused.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the host's addresses are polled when no notifications are available.
const LOOK: Duration = Duration::from_secs(5);

/// The network while it is running.
#[derive(Debug)]
pub(super) struct Live {
    record: Record,
    helper: Helper,
    /// The host's own addresses, as last sent to the helper.
    host: Vec<Ipv4Addr>,
    /// Networks that have a bridge.
    networks: HashSet<u8>,
    tasks: Vec<JoinHandle<()>>,
    resolves: bool,
    /// The uplink process whose end is watched.
    followed: Option<ProcessIdentity>,
    /// Number of attempts to start the uplink; a pending retry of an earlier attempt does nothing.
    attempts: u64,
    pasta_retry: Duration,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Attaches a VM, or changes its policy. Returns the process that holds the namespace.
pub(super) async fn attach(shared: &Arc<Shared>, guest: Guest) -> Result<ProcessIdentity, NetworkError> {
    let mut slot = shared.live.lock().await;
    let attached = attach_retrying(shared, &mut slot, guest).await;
    if attached.is_err() && shared.guests.is_empty() {
        stop_later(shared);
    }
    attached
}

async fn attach_retrying(
    shared: &Arc<Shared>,
    slot: &mut Option<Live>,
    guest: Guest,
) -> Result<ProcessIdentity, NetworkError> {
    // The second attempt is for a helper that died since it was last used.
    for attempt in 0.. {
        let live = ready(shared, slot).await?;
        match live.attach(shared, &guest).await {
            Ok(()) => {
                let holder = live.record.holder;
                shared.guests.insert(guest);
                return Ok(holder);
            }
            Err(HelperError::Broken(error)) if attempt == 0 => {
                tracing::warn!(%error, "the network helper failed; another is started");
            }
            Err(error) => return Err(error.into()),
        }
        live.end_tasks().await;
        slot.take();
    }
    unreachable!("the loop returns")
}

/// Detaches a VM. The caller may regard it as gone even when the helper refuses; its address stays reserved until what
/// is left of it has been removed.
pub(super) async fn detach(shared: &Arc<Shared>, vm: &VmId) -> Result<(), NetworkError> {
    if shared.guests.by_vm(vm).is_none() && !shared.guests.is_stray(vm) {
        return Ok(());
    }
    let mut slot = shared.live.lock().await;
    shared.guests.remove(vm);
    let told = match slot.as_mut() {
        Some(live) => live.tell(&Request::DetachVm { vm: vm.clone() }).await,
        // The next helper removes everything that belongs to no VM.
        None => Ok(()),
    };
    let detached = match told {
        Ok(()) => {
            shared.guests.clear_stray(vm);
            Ok(())
        }
        Err(refused @ HelperError::Refused(_)) => {
            if shared.guests.mark_stray(vm) {
                retry::remove_strays(shared);
            }
            Err(refused.into())
        }
        Err(HelperError::Broken(error)) => {
            // The next helper, started when this one's end is noticed, removes everything that belongs to no VM.
            tracing::warn!(%error, "the network helper failed");
            shared.guests.clear_stray(vm);
            Ok(())
        }
    };
    if shared.guests.is_empty() {
        stop_later(shared);
    }
    detached
}

/// Ends the network after a while, if no VM is attached then.
fn stop_later(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        sleep(LINGER).await;
        if let Some(shared) = shared.upgrade() {
            stop_if_unused(&shared).await;
        }
    });
}

/// Ends the network if no VM is attached. Not before all VMs are adopted: one not known yet may be attached.
pub(super) async fn stop_if_unused(shared: &Shared) {
    let mut slot = shared.live.lock().await;
    if !shared.taken_over.load(Ordering::Relaxed) || !shared.guests.is_empty() {
        return;
    }
    let record = match slot.take() {
        Some(live) => Some(live.record.clone()),
        None => Record::read(&shared.state).unwrap_or_default(),
    };
    shared.guests.clear_strays();
    if let Some(record) = record
        && let Err(error) = record.end(&shared.state).await
    {
        tracing::warn!(%error, "the network cannot be ended");
    }
}

/// Takes over the network an earlier daemon left, or ends it; all attached VMs must be known.
pub(super) async fn take_over(shared: &Arc<Shared>) {
    shared.taken_over.store(true, Ordering::Relaxed);
    if shared.guests.is_empty() {
        stop_if_unused(shared).await;
        return;
    }
    let mut slot = shared.live.lock().await;
    if let Err(error) = ready(shared, &mut slot).await {
        tracing::error!(reason = error.to_string(), "the VMs' network is not as it should be");
    }
}

/// Denied packets of an address.
pub(super) async fn denials(shared: &Arc<Shared>, address: Ipv4Addr) -> Result<Denials, NetworkError> {
    let mut slot = shared.live.lock().await;
    let Some(live) = slot.as_mut() else { return Ok(Denials::default()) };
    let vm = shared.guests.by_address(address).map(|guest| guest.vm.clone());
    let request = Request::Status { of: vm.clone() };
    let (answer, _) = live.helper.ask(&request).await.map_err(HelperError::Broken)?;
    let status = match answer {
        Answer::Status(status) => status,
        Answer::Failed { reason } => return Err(HelperError::Refused(reason).into()),
        Answer::Done | Answer::Resolver => return Err(NetworkError::UnexpectedAnswer),
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

/// Opens addresses that a name resolved to, for a guest and under the rules it had when it asked. After an error some
/// of them may be closed.
pub(super) async fn learn(
    shared: &Shared,
    guest: &Guest,
    rules: &[u8],
    addresses: &[Ipv4Addr],
    ttl: u32,
) -> Result<(), NetworkError> {
    let mut slot = shared.live.lock().await;
    let live = slot.as_mut().ok_or(NetworkError::NotRunning)?;
    let vm = &guest.vm;
    // Rules are identified by their position: in another policy they would be different ones.
    if shared.guests.by_vm(vm).is_none_or(|now| now.egress != guest.egress) {
        return Err(NetworkError::PolicyChanged);
    }
    for rule in rules {
        for some in addresses.chunks(MAX_LEARNED) {
            let request = Request::LearnAddresses { vm: vm.clone(), rule: *rule, addresses: some.to_vec(), ttl };
            live.tell(&request).await?;
        }
    }
    Ok(())
}

/// Returns the running network; starts whatever of it is missing.
async fn ready<'a>(shared: &Arc<Shared>, slot: &'a mut Option<Live>) -> Result<&'a mut Live, NetworkError> {
    let intact = slot.as_ref().is_some_and(|live| live.record.holder.alive() && live.helper.process().alive());
    if !intact {
        let old = slot.take();
        match start::start(shared, old).await {
            Ok(live) => *slot = Some(live),
            Err(error) => {
                // A network that did not start has no process whose end could trigger a retry.
                retry::until_ready(shared);
                return Err(NetworkError::Start(error));
            }
        }
    }
    Ok(slot.as_mut().expect("it was just put there"))
}

/// Error of an operation on the VMs' network.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    /// The network could not be started.
    #[error(transparent)]
    Start(io::Error),
    /// The helper failed or refused.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The helper answered another request than the one it was sent.
    #[error("the helper answered something else")]
    UnexpectedAnswer,
    /// The network is not running.
    #[error("there is no network")]
    NotRunning,
    /// The VM's policy was changed after the request was made.
    #[error("the VM's policy is another one now")]
    PolicyChanged,
}

/// Error of a request to the helper.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    /// The helper refused the request; it can still be used.
    #[error("{0}")]
    Refused(String),
    /// The helper cannot be used any more.
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
    /// Ends the tasks of this network and waits for them: another helper cannot bind the resolver's address before its
    /// sockets are closed.
    async fn end_tasks(&mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
    }

    async fn tell(&mut self, request: &Request) -> Result<(), HelperError> {
        match self.helper.ask(request).await? {
            (Answer::Failed { reason }, _) => Err(HelperError::Refused(reason)),
            // `Helper::ask` lets no other answer through.
            _ => Ok(()),
        }
    }

    /// Attaches a VM to its network, which is made if needed.
    async fn attach(&mut self, shared: &Arc<Shared>, guest: &Guest) -> Result<(), HelperError> {
        if !self.networks.contains(&guest.slot.network) {
            self.ensure(shared, guest.slot.network).await?;
            failpoint::hit("network.named").await;
        }
        self.tell(&Request::AttachVm(guest.attachment())).await
    }

    /// Makes a network and serves its resolver.
    async fn ensure(&mut self, shared: &Arc<Shared>, network: u8) -> Result<(), HelperError> {
        let host = watch::host_addresses().map_err(|error| HelperError::Refused(error.to_string()))?;
        let request = Request::EnsureNetwork { block: shared.settings.block, network, host: host.clone() };
        // The sockets of an ending resolver may stay open for a moment.
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

/// Waits for the end of a process.
async fn ended(process: ProcessIdentity) {
    match ProvenProcess::open(process) {
        Ok(Some(process)) => drop(process.ended().await),
        Ok(None) => {}
        // The end of a process that cannot be watched is found out when it is next used.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
pub(super) mod tests;
