//! Effects of each request on links and rules. Requests have been checked.

use crate::{
    apply::Nft,
    check::check,
    names::{self, Owner},
    rules::{self, Change, Scope},
    status::{self, AttachedVm},
};
use banger_netlink::{
    Socket,
    link::{self, Link},
    nft, route,
    tap::{self, Tap},
};
use banger_proto::{
    helper::{Answer, Attachment, NETWORK_PREFIX, NETWORKS, Request, To},
    name::VmId,
    network::{Cidr, is_public},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::OwnedFd,
};

/// Answer and the descriptors attached to it.
type Reply = io::Result<(Answer, Vec<OwnedFd>)>;
/// Port of the resolver.
const DNS: u16 = 53;

/// Network of one user: what the helper was told, and sockets to the kernel, from which the state itself is read.
#[derive(Debug)]
pub struct Host {
    owner: Owner,
    scope: Scope,
    nft: Nft,
    netlink: Socket,
    rules: Socket,
    confinement: Vec<String>,
    block: Option<Cidr>,
    addresses: HashSet<Ipv4Addr>,
    attached: HashMap<VmId, Attachment>,
}

/// Tools for all networks: nft, and this process's confinement.
#[derive(Debug, Clone)]
pub struct Tools {
    nft: Nft,
    confinement: Vec<String>,
}

impl Tools {
    /// Confines this process irrevocably. Must be called before there is a second thread.
    pub fn confine() -> io::Result<Self> {
        let nft = Nft::find().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nft is not installed"))?;
        let confinement = crate::confine::enter(&nft)?;
        Ok(Self { nft, confinement })
    }
}

impl Host {
    /// Network of `owner`, in the network namespace of this thread.
    pub fn new(owner: Owner, scope: Scope, tools: Tools) -> io::Result<Self> {
        Ok(Self {
            owner,
            scope,
            nft: tools.nft,
            netlink: Socket::route()?,
            rules: Socket::netfilter()?,
            confinement: tools.confinement,
            block: None,
            addresses: HashSet::new(),
            attached: HashMap::new(),
        })
    }

    /// Carries out a request; some answers have descriptors attached.
    pub fn carry_out(&mut self, request: Request) -> (Answer, Vec<OwnedFd>) {
        if let Err(refusal) = check(&request) {
            return (Answer::Failed { reason: refusal.to_string() }, Vec::new());
        }
        let done = |()| (Answer::Done, Vec::new());
        let result = match request {
            Request::EnsureNetwork { block, network, host } => self.ensure(block, network, &host),
            Request::AttachVm(attachment) => self.attach(attachment).map(done),
            Request::DetachVm { vm } => self.detach(&vm).map(done),
            Request::LearnAddresses { vm, rule, addresses, ttl } => self.learn(&vm, rule, addresses, ttl).map(done),
            Request::Reconcile { vms } => self.reconcile(&vms).map(done),
            Request::Status { of } => self.status(of.as_ref()).map(|status| (Answer::Status(status), Vec::new())),
        };
        result.unwrap_or_else(|error| (Answer::Failed { reason: error.to_string() }, Vec::new()))
    }

    fn ensure(&mut self, block: Cidr, network: u8, host: &[Ipv4Addr]) -> Reply {
        if let Scope::Machine(pool) = self.scope
            && !(pool.contains(block.first()) && pool.prefix() <= block.prefix())
        {
            return Err(io::Error::other(format!("networks of this machine are cut from {pool}")));
        }
        let mut made = Vec::new();
        let ensured = self.build(block, network, host, &mut made);
        if ensured.is_err() {
            // A failed request leaves nothing behind; its own error is reported.
            for bridge in made {
                let _ = link::delete(&mut self.netlink, bridge);
            }
        }
        ensured
    }

    /// Makes the network. The tables come last: a failure before them has changed no rule.
    fn build(&mut self, block: Cidr, network: u8, host: &[Ipv4Addr], made: &mut Vec<u32>) -> Reply {
        if self.scope == Scope::OwnNamespace
            && let Some(lo) = link::find(&mut self.netlink, "lo")?
        {
            link::set_up(&mut self.netlink, lo.index)?;
        }
        for network in HashSet::from([0, network]) {
            self.bridge(block, network, made)?;
        }
        let resolver = SocketAddrV4::new(gateway(block, 0)?, DNS);
        let answer = match (UdpSocket::bind(resolver), TcpListener::bind(resolver)) {
            (Ok(udp), Ok(tcp)) => (Answer::Resolver, vec![udp.into(), tcp.into()]),
            // The client has the sockets from an earlier request.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::AddrInUse => (Answer::Done, Vec::new()),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        self.nft.apply(&rules::tables(self.owner, self.scope, block, network, host))?;
        self.block = Some(block);
        self.addresses = host.iter().copied().collect();
        Ok(answer)
    }

    fn bridge(&mut self, block: Cidr, network: u8, made: &mut Vec<u32>) -> io::Result<()> {
        let (name, alias) = (self.owner.bridge(network), self.owner.bridge_alias(network));
        let gateway = gateway(block, network)?;
        self.ensure_block_free(block, gateway)?;
        let is_new = link::find(&mut self.netlink, &name)?.is_none();
        if is_new {
            link::add_bridge(&mut self.netlink, &name, names::mac(gateway).0, &alias)?;
        }
        let bridge = self.find_ours(&name, &alias)?;
        made.extend(is_new.then_some(bridge.index));
        route::add_address(&mut self.netlink, bridge.index, gateway, NETWORK_PREFIX)?;
        link::set_up(&mut self.netlink, bridge.index)
    }

    /// Refuses a block that others use. In banger's own namespace only the gateway's address must be free or ours; in
    /// the host's namespace the whole block must be: its user chose it and could pose as others' router or resolver.
    fn ensure_block_free(&mut self, block: Cidr, gateway: Ipv4Addr) -> io::Result<()> {
        let wanted = if self.scope == Scope::OwnNamespace { Cidr::host(gateway) } else { block };
        let links = link::list(&mut self.netlink)?;
        let own = links.iter().filter(|link| self.network_of(link).is_some()).map(|link| link.index);
        let own: HashSet<Option<u32>> = own.map(Some).collect();
        let routes = route::routes(&mut self.netlink)?;
        let (ours, others): (Vec<_>, Vec<_>) = routes.into_iter().partition(|route| own.contains(&route.link));
        if ours.iter().any(|route| route.prefix == 32 && !block.contains(route.first)) {
            return Err(io::Error::other("networks are cut from another block already"));
        }
        // A default route, or either half of one (as some VPNs have), leads to addresses that nobody uses here.
        let to = others.iter().filter(|to| to.prefix > 1).filter_map(|to| Cidr::new(to.first, to.prefix));
        let mut to = to.filter(|to| to.overlaps(wanted));
        match to.next() {
            // A route added after our network was made is no reason to remove the network.
            Some(to) if !ours.iter().any(|route| (route.first, route.prefix) == (gateway, 32)) => {
                Err(io::Error::other(format!("{wanted} is somebody else's here: there is a route to {to}")))
            }
            _ => Ok(()),
        }
    }

    /// Number of the network whose bridge this link is, if it is marked as ours.
    fn network_of(&self, link: &Link) -> Option<u8> {
        let network = (0..NETWORKS).find(|network| link.name == self.owner.bridge(*network))?;
        (link.alias.as_deref() == Some(&self.owner.bridge_alias(network))).then_some(network)
    }

    /// Link of this name, if it is marked as ours.
    fn find_ours(&mut self, name: &str, alias: &str) -> io::Result<Link> {
        let link = link::find(&mut self.netlink, name)?.ok_or(io::ErrorKind::NotFound)?;
        if link.alias.as_deref() == Some(alias) {
            return Ok(link);
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is not banger's")))
    }

    fn attach(&mut self, attachment: Attachment) -> io::Result<()> {
        let block = self.block.ok_or_else(|| io::Error::other("there is no network yet"))?;
        let address = names::address(block, attachment.network, attachment.host).ok_or(io::ErrorKind::InvalidInput)?;
        let known = status::attached_at(&mut self.rules, self.owner, address)?;
        if let Some(other) = known.as_ref().filter(|attached| attached.vm != attachment.vm) {
            return Err(io::Error::other(format!("{address} is the address of VM {}", other.vm)));
        }
        let (name, alias) = (names::tap(&attachment.vm), self.owner.tap_alias(&attachment.vm));
        let mut made = link::find(&mut self.netlink, &name)?.is_none();
        let may_stand = !made || self.attached.contains_key(&attachment.vm);
        if known.is_none() && may_stand && self.find_attached(&attachment.vm)?.is_some() {
            // An earlier helper, or this one, attached it at another address.
            self.detach(&attachment.vm)?;
            made = true;
        }
        let tap = if made {
            // In a namespace of its own, that user is root.
            let user = if self.scope == Scope::OwnNamespace { 0 } else { self.owner.0 };
            let tap = Tap::make(tap::Name::new(&name)?)?;
            tap.give(user)?;
            let link = link::find(&mut self.netlink, &name)?.ok_or(io::ErrorKind::NotFound)?;
            link::set_alias(&mut self.netlink, link.index, &alias)?;
            // Marked before it is made persistent.
            tap.keep()?;
            link
        } else {
            self.find_ours(&name, &alias)?
        };
        let change = rules::attach(self.owner, address, &attachment, known.as_ref());
        let placed = self.bring_up(&tap, address, &attachment, &change);
        if placed.is_err() && made {
            // A failed request leaves nothing behind, not even rules; its own error is reported.
            let _ = self.detach(&attachment.vm);
        }
        placed?;
        self.attached.insert(attachment.vm.clone(), attachment);
        Ok(())
    }

    /// Connects a tap to its bridge and applies its rules before the link goes up.
    fn bring_up(&mut self, tap: &Link, address: Ipv4Addr, attachment: &Attachment, change: &Change) -> io::Result<()> {
        let bridge = self.owner.bridge(attachment.network);
        let bridge = self.find_ours(&bridge, &self.owner.bridge_alias(attachment.network))?;
        if tap.master != Some(bridge.index) {
            link::set_master(&mut self.netlink, tap.index, bridge.index)?;
        }
        link::pin_port(&mut self.netlink, tap.index, names::mac(address).0, attachment.network == 0)?;
        self.change(change)?;
        link::set_up(&mut self.netlink, tap.index)
    }

    fn change(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::Text(text) => self.nft.apply(text),
            Change::Edits(edits) => nft::edit(&mut self.rules, edits),
        }
    }

    /// Finds an attached VM, also one attached by an earlier helper.
    fn find_attached(&mut self, vm: &VmId) -> io::Result<Option<AttachedVm>> {
        let known = self.attached.get(vm).zip(self.block);
        let address = known.and_then(|(known, block)| names::address(block, known.network, known.host));
        if let Some(address) = address {
            let attached = status::attached_at(&mut self.rules, self.owner, address)?;
            return Ok(attached.filter(|attached| attached.vm == *vm));
        }
        Ok(status::attached(&mut self.rules, self.owner)?.into_iter().find(|attached| attached.vm == *vm))
    }

    fn detach(&mut self, vm: &VmId) -> io::Result<()> {
        let (name, alias) = (names::tap(vm), self.owner.tap_alias(vm));
        let attached = self.find_attached(vm)?;
        if link::find(&mut self.netlink, &name)?.is_some() {
            let tap = self.find_ours(&name, &alias)?;
            link::delete(&mut self.netlink, tap.index)?;
        }
        if let Some(attached) = attached {
            self.change(&rules::detach(self.owner, &attached))?;
            status::forget(&mut self.rules, self.owner, attached.address)?;
        }
        self.attached.remove(vm);
        Ok(())
    }

    fn learn(&mut self, vm: &VmId, rule: u8, addresses: Vec<Ipv4Addr>, ttl: u32) -> io::Result<()> {
        let attachment = self.attached.get(vm).ok_or_else(|| io::Error::other("the VM is not attached"))?;
        let filter = attachment.policy.allow.get(usize::from(rule)).filter(|filter| filter.to == To::Learned);
        let filter = filter.ok_or_else(|| io::Error::other("the VM has no such rule"))?;
        let may_open = |address: &Ipv4Addr| is_public(*address) && !self.addresses.contains(address);
        let public: BTreeSet<Ipv4Addr> = addresses.into_iter().filter(may_open).collect();
        if public.is_empty() {
            return Ok(());
        }
        let change = rules::learn(self.owner, vm, filter.port, &Vec::from_iter(public), ttl);
        self.change(&change)
    }

    fn reconcile(&mut self, vms: &[VmId]) -> io::Result<()> {
        let known: HashSet<&VmId> = vms.iter().collect();
        let mut strays: HashSet<VmId> = self.taps()?.into_iter().collect();
        strays.extend(status::attached(&mut self.rules, self.owner)?.into_iter().map(|attached| attached.vm));
        for vm in strays.iter().filter(|vm| !known.contains(vm)) {
            self.detach(vm)?;
        }
        self.clear(known.is_empty())
    }

    /// Removes bridges without a tap, and with the last VM also the first bridge and the tables.
    fn clear(&mut self, everything: bool) -> io::Result<()> {
        let links = link::list(&mut self.netlink)?;
        for bridge in &links {
            let goes = self.network_of(bridge).is_some_and(|network| network != 0 || everything);
            if goes && !links.iter().any(|link| link.master == Some(bridge.index)) {
                link::delete(&mut self.netlink, bridge.index)?;
            }
        }
        if everything {
            self.nft.apply(&rules::delete_tables(self.owner))?;
            self.block = None;
            self.attached.clear();
        }
        Ok(())
    }

    /// VMs that have a tap.
    fn taps(&mut self) -> io::Result<Vec<VmId>> {
        let links = link::list(&mut self.netlink)?;
        Ok(links.iter().filter_map(|link| self.owner.vm_of(link.alias.as_deref()?)).collect())
    }

    fn status(&mut self, of: Option<&VmId>) -> io::Result<banger_proto::helper::Status> {
        let (rules, owner) = (&mut self.rules, self.owner);
        let attached = status::attached(rules, owner)?;
        let address = |vm: &VmId| attached.iter().find(|attached| attached.vm == *vm).map(|attached| attached.address);
        // A VM that is not attached has no denials.
        let of = of.map(|vm| address(vm).unwrap_or(Ipv4Addr::UNSPECIFIED));
        let (denied, denials) = (status::denied(rules, owner)?, status::denials(rules, owner, of)?);
        Ok(banger_proto::helper::Status { vms: self.taps()?, confinement: self.confinement.clone(), denied, denials })
    }
}

fn gateway(block: Cidr, network: u8) -> io::Result<Ipv4Addr> {
    names::gateway(block, network).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
