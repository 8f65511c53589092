//! Starting the network with its first VM, mending what dies, ending it after its last.
//!
//! ```text
//!  first attach   holder → record → helper → tables, bridge, resolver → pasta
//!  holder dies    another joins the same namespace through a VM's monitor (or the helper) that is still in it
//!  pasta dies     another, after a pause that grows
//!  helper dies    another; it is told of every VM again, which changes nothing that is right
//!  last detach    all of it ends, after a while in which the next VM may come
//! ```

use super::{
    Guest, Shared, Uplink,
    changes::Changes,
    dns,
    guests::Denials,
    helper::Helper,
    holder::{self, Record},
};
use crate::shim::{control::ProcessIdentity, identity::ProvenProcess};
use banger_netlink::{Socket, route};
use banger_proto::{
    helper::{Answer, MAX_HOST_ADDRESSES, Request},
    name::VmId,
};
use std::{
    io,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{process::Child, task::JoinHandle, time::sleep};

/// Work that starts other work of its kind.
type Later = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long the network waits for another VM.
const LINGER: Duration = Duration::from_secs(20);
/// The pause before pasta is tried again, the first time; it doubles up to the other.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// How often, and how far apart, the resolver's address is asked for.
const BIND_TRIES: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// A host that changes its network does so in several steps.
const SETTLE: Duration = Duration::from_millis(300);

/// The network while it is there.
#[derive(Debug)]
pub(super) struct Live {
    record: Record,
    helper: Helper,
    host: Vec<Ipv4Addr>,
    /// Networks that have their bridge.
    networks: std::collections::HashSet<u8>,
    tasks: Vec<JoinHandle<()>>,
    resolves: bool,
    /// The way out whose end is noticed.
    followed: Option<ProcessIdentity>,
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
    // A second try is for a helper that died since it was last used.
    for attempt in 0.. {
        let live = ready(shared, &mut slot).await?;
        match live.place(shared, &guest).await {
            Ok(()) => {
                let holder = live.record.holder;
                shared.guests.insert(guest);
                return Ok(holder);
            }
            Err(Trouble::Refused(reason)) => return Err(reason),
            Err(Trouble::Broken(error)) if attempt > 0 => return Err(error.to_string()),
            Err(Trouble::Broken(error)) => tracing::warn!(%error, "the network helper failed; another is started"),
        }
        slot.take();
    }
    unreachable!("the loop returns")
}

/// Detaches a VM.
pub(super) async fn detach(shared: &Arc<Shared>, vm: &VmId) -> Result<(), String> {
    if shared.guests.by_vm(vm).is_none() {
        return Ok(());
    }
    let mut slot = shared.live.lock().await;
    shared.guests.remove(vm);
    let Some(live) = slot.as_mut() else { return Ok(()) };
    let detached = live.tell(&Request::DetachVm { vm: vm.clone() }).await;
    match detached {
        Ok(()) => {}
        Err(Trouble::Refused(reason)) => return Err(reason),
        Err(Trouble::Broken(error)) => {
            // Whoever comes next removes what no VM has.
            tracing::warn!(%error, "the network helper failed");
            slot.take();
        }
    }
    if shared.guests.is_empty() {
        let shared = Arc::downgrade(shared);
        tokio::spawn(async move {
            sleep(LINGER).await;
            if let Some(shared) = shared.upgrade() {
                leave(&shared).await;
            }
        });
    }
    Ok(())
}

/// Ends the network if nobody is attached.
pub(super) async fn leave(shared: &Shared) {
    let mut slot = shared.live.lock().await;
    if !shared.guests.is_empty() {
        return;
    }
    let record = match slot.take() {
        Some(live) => Some(live.record.clone()),
        None => Record::read(&shared.state).unwrap_or_default(),
    };
    if let Some(record) = record
        && let Err(error) = record.end(&shared.state).await
    {
        tracing::warn!(%error, "the network cannot be ended");
    }
}

/// Takes over what an earlier daemon left.
pub(super) async fn take_over(shared: &Arc<Shared>) {
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
    let vm = shared.guests.by_address(address).map(|guest| guest.vm);
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

/// Opens addresses that a name resolved to.
pub(super) async fn learn(shared: &Shared, vm: &VmId, rules: &[u8], addresses: &[Ipv4Addr], ttl: u32) {
    let mut slot = shared.live.lock().await;
    let Some(live) = slot.as_mut() else { return };
    for rule in rules {
        let request = Request::LearnAddresses { vm: vm.clone(), rule: *rule, addresses: addresses.to_vec(), ttl };
        if let Err(error) = live.tell(&request).await {
            tracing::warn!(vm = %vm, %error, "a name's addresses cannot be opened");
        }
    }
}

/// The network, as it should be: whatever of it is missing is started.
async fn ready<'a>(shared: &Arc<Shared>, slot: &'a mut Option<Live>) -> Result<&'a mut Live, String> {
    let intact = slot.as_ref().is_some_and(|live| live.record.holder.alive() && live.helper.process().is_some());
    if !intact {
        let old = slot.take();
        *slot = Some(start(shared, old).await.map_err(|error| error.to_string())?);
    }
    Ok(slot.as_mut().expect("it was just put there"))
}

async fn start(shared: &Arc<Shared>, old: Option<Live>) -> io::Result<Live> {
    let known = Record::read(&shared.state)?;
    let record = match known {
        Some(record) if record.holder.alive() => record,
        known => {
            let helper = old.as_ref().and_then(|live| live.helper.process());
            let member = match &known {
                Some(record) => member(shared, record.namespace, helper).await,
                None => None,
            };
            let pasta = known.and_then(|record| record.pasta).filter(ProcessIdentity::alive);
            let mut record = holder::hold(&shared.helper, &shared.state, member).await?;
            // The way out is still there if the namespace is the same.
            match (pasta, member) {
                (Some(pasta), Some(_)) => record.pasta = Some(pasta),
                (Some(pasta), None) => holder::end(pasta),
                (None, _) => {}
            }
            record.write(&shared.state)?;
            record
        }
    };
    if let Some(mut old) = old {
        // Its resolver's sockets must be closed before another helper binds the same address.
        for task in std::mem::take(&mut old.tasks) {
            task.abort();
            let _ = task.await;
        }
    }
    let helper = Helper::start(&shared.helper, record.holder)?;
    let mut live = Live {
        record,
        helper,
        host: Vec::new(),
        networks: std::collections::HashSet::new(),
        tasks: Vec::new(),
        resolves: false,
        followed: None,
        pasta_retry: RETRY.0,
    };
    live.ensure(shared, 0).await.map_err(Trouble::into_io)?;
    let guests = shared.guests.all();
    let vms = guests.iter().map(|guest| guest.vm.clone()).collect();
    live.tell(&Request::Reconcile { vms }).await.map_err(Trouble::into_io)?;
    if guests.is_empty() {
        // Reconciling with nobody takes the tables away too.
        live.networks.clear();
        live.ensure(shared, 0).await.map_err(Trouble::into_io)?;
    }
    for guest in &guests {
        live.place(shared, guest).await.map_err(Trouble::into_io)?;
    }
    live.uplink(shared);
    live.tasks.push(tokio::spawn(watch(Arc::downgrade(shared), live.record.holder, live.helper.process())));
    Ok(live)
}

/// A process that is in the namespace still, now that its holder is gone.
async fn member(shared: &Shared, namespace: u64, helper: Option<ProcessIdentity>) -> Option<ProcessIdentity> {
    let rows = shared.store.vms().await.unwrap_or_default();
    let monitors = rows.iter().filter_map(|row| row.run.vmm_process);
    helper.into_iter().chain(monitors).find(|process| holder::namespace_of(*process) == Some(namespace))
}

/// Why the helper did not do it.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It said no; it is of use still.
    #[error("{0}")]
    Refused(String),
    /// It is of no use any more.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

impl Trouble {
    fn into_io(self) -> io::Error {
        match self {
            Self::Refused(reason) => io::Error::other(reason),
            Self::Broken(error) => error,
        }
    }
}

impl Live {
    async fn tell(&mut self, request: &Request) -> Result<(), Trouble> {
        match self.helper.ask(request).await? {
            (Answer::Failed { reason }, _) => Err(Trouble::Refused(reason)),
            _ => Ok(()),
        }
    }

    /// Puts a VM on its network.
    async fn place(&mut self, shared: &Arc<Shared>, guest: &Guest) -> Result<(), Trouble> {
        if !self.networks.contains(&guest.seat.network) {
            self.ensure(shared, guest.seat.network).await?;
        }
        self.tell(&Request::AttachVm(guest.attachment())).await
    }

    /// Makes a network, and answers names in it.
    async fn ensure(&mut self, shared: &Arc<Shared>, network: u8) -> Result<(), Trouble> {
        self.host = host_addresses();
        let request = Request::EnsureNetwork { block: shared.settings.block, network, host: self.host.clone() };
        // The sockets of a resolver that is ending may be open for a moment still.
        for _ in 0..BIND_TRIES {
            match self.helper.ask(&request).await? {
                (Answer::Failed { reason }, _) => return Err(Trouble::Refused(reason)),
                (Answer::Resolver, descriptors) => self.answer_names(shared, descriptors)?,
                _ => {}
            }
            if self.resolves {
                break;
            }
            sleep(BIND_PAUSE).await;
        }
        self.networks.extend([0, network]);
        Ok(())
    }

    fn answer_names(&mut self, shared: &Arc<Shared>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let sockets: [OwnedFd; 2] = descriptors.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        self.tasks.extend(dns::serve(Arc::downgrade(shared), sockets)?);
        self.resolves = true;
        Ok(())
    }

    /// Starts the way out if there should be one and is none.
    fn uplink(&mut self, shared: &Arc<Shared>) {
        if shared.settings.uplink != Uplink::Auto {
            return;
        }
        if let Some(pasta) = self.record.pasta.filter(ProcessIdentity::alive) {
            // One that an earlier helper's time, or an earlier daemon, has left.
            if self.followed != Some(pasta) {
                self.follow(shared, pasta, None);
            }
            return;
        }
        let Some(program) = holder::find("pasta") else {
            tracing::warn!("pasta is not installed: VMs have no way to the internet");
            return;
        };
        match holder::uplink(&program, self.record.holder) {
            Ok((pasta, child)) => {
                self.record.pasta = Some(pasta);
                if let Err(error) = self.record.write(&shared.state) {
                    tracing::error!(%error, "cannot write down who the uplink is");
                }
                self.follow(shared, pasta, Some(child));
                self.pasta_retry = (self.pasta_retry * 2).min(RETRY.1);
            }
            Err(error) => tracing::warn!(%error, "pasta does not start: VMs have no way to the internet"),
        }
    }
}

impl Live {
    fn follow(&mut self, shared: &Arc<Shared>, pasta: ProcessIdentity, child: Option<Child>) {
        self.followed = Some(pasta);
        self.tasks.push(tokio::spawn(follow_pasta(Arc::downgrade(shared), pasta, child, self.pasta_retry)));
    }
}

/// Starts pasta again when it ends. One that was up for a while is started again at once.
async fn follow_pasta(shared: Weak<Shared>, pasta: ProcessIdentity, child: Option<Child>, retry: Duration) {
    let began = tokio::time::Instant::now();
    ended(Some(pasta)).await;
    let words = match child {
        Some(mut child) => holder::last_words(&mut child).await,
        None => String::new(),
    };
    tracing::warn!(pid = pasta.pid, words, "pasta ended; another is started");
    let lasted = began.elapsed() > RETRY.1;
    sleep(if lasted { RETRY.0 } else { retry }).await;
    let Some(shared) = shared.upgrade() else { return };
    // From a task of its own: this one ends with the network it belongs to.
    tokio::spawn(try_uplink(shared, lasted));
}

/// Starts the way out, if there is a network.
fn try_uplink(shared: Arc<Shared>, afresh: bool) -> Later {
    Box::pin(async move {
        if let Some(live) = shared.live.lock().await.as_mut() {
            if afresh {
                live.pasta_retry = RETRY.0;
            }
            live.uplink(&shared);
        }
    })
}

/// Brings back what is missing, if a VM needs it.
fn mend(shared: Arc<Shared>) -> Later {
    Box::pin(async move {
        let mut slot = shared.live.lock().await;
        if !shared.guests.is_empty()
            && let Err(reason) = ready(&shared, &mut slot).await
        {
            tracing::error!(reason, "the VMs' network is not as it should be");
        }
    })
}

/// Waits for a process's end; for ever when there is none.
async fn ended(process: Option<ProcessIdentity>) {
    match process.map(ProvenProcess::open) {
        Some(Ok(Some(process))) => drop(process.ended().await),
        Some(Ok(None)) => {}
        // What cannot be watched is found out when it is next needed.
        Some(Err(_)) | None => std::future::pending().await,
    }
}

/// Mends the network when its holder or helper ends, and follows the host's own network.
async fn watch(shared: Weak<Shared>, holder: ProcessIdentity, helper: Option<ProcessIdentity>) {
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

/// The addresses of this host, its loopback apart.
fn host_addresses() -> Vec<Ipv4Addr> {
    let addresses = Socket::route().and_then(|mut socket| route::addresses(&mut socket)).unwrap_or_default();
    let mut addresses: Vec<Ipv4Addr> = addresses.into_iter().filter(|address| !address.is_loopback()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_HOST_ADDRESSES);
    addresses
}
