//! Renders the firewall rules as nftables text and elements of sets: pure functions. Each change is one transaction.
//!
//! ```text
//!  bridge prerouting   a frame from a tap must come from its VM's MAC and IPv4 address; ARP too; nothing else passes
//!  inet forward        from a VM: its own chain decides, every packet. To a VM: answers only
//!  inet input          from a VM: DNS at the first gateway only
//!  inet output         answers only
//!  inet postrouting    what leaves gets the namespace's own address
//! ```
//!
//! The chain an address leads to is its VM's policy. VMs without own rules share one: attaching, detaching and
//! learning only change sets and run no program. A VM with own rules has its own. Replacing either is one transaction.

use crate::{
    names::{self, Owner},
    status::AttachedVm,
};
use banger_netlink::nft::{self, Edit, Element, Family};
use banger_proto::{
    helper::{Attachment, Base, Filter, Policy, To},
    name::VmId,
    network::{CLOSED, Cidr},
};
use std::{fmt::Write, net::Ipv4Addr, time::Duration};

/// Most denied destinations kept; the second number is for protocols without ports.
const MAX_DENIALS: (u32, u32) = (65_536, 16_384);
/// Burst of one VM's denied packets that is recorded, and the rate per second after it: no VM fills the others' record.
const DENIAL_BURST: (u32, u32) = (256, 1);
/// How long denials are kept, in seconds.
pub(crate) const DENIALS_KEPT: u32 = 3600;
/// Most addresses learned for one VM at a time.
const MAX_LEARNED: u32 = 4096;
/// Seconds an address stays open after its answer expires: connections start later and resend after 1, 3 and 7 s.
const GRACE: u32 = 10;

/// Network namespace the rules are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Banger's own namespace, with nothing else in it.
    OwnNamespace,
    /// The host's namespace, which serves other purposes too; its administrator reserves this block for VMs.
    Machine(Cidr),
}

/// Change of the rules, applied as one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// nftables text, which `nft` applies.
    Text(String),
    /// Changes of sets only.
    Edits(Vec<Edit>),
}

/// The user's complete tables: rules are replaced, and elements of VMs stay.
pub fn tables(owner: Owner, scope: Scope, block: Cidr, network: u8, host: &[Ipv4Addr]) -> String {
    let (table, bridges) = (owner.table(), owner.bridges());
    let closed = list(&CLOSED);
    // In banger's own namespace the VMM's own packets are dropped; in the host's, packets of no guest are left alone.
    let others = match scope {
        Scope::OwnNamespace => "drop",
        Scope::Machine(_) => "accept",
    };
    let ((ports, others_kept), (burst, rate)) = (MAX_DENIALS, DENIAL_BURST);
    let resolver = names::gateway(block, 0).expect("a checked block has a first gateway");
    let mut text = format!(
        r#"add table inet {table}
add set inet {table} closed {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {closed} }}; }}
add set inet {table} host {{ type ipv4_addr; }}
flush set inet {table} host
add set inet {table} networks {{ type ifname . ifname; }}
add set inet {table} denied_by {{ type ipv4_addr; size 65536; flags dynamic; }}
add set inet {table} denials {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size {ports}; flags dynamic,timeout; timeout {DENIALS_KEPT}s; }}
add set inet {table} denials_other {{ type ipv4_addr . ipv4_addr . inet_proto; size {others_kept}; flags dynamic,timeout; timeout {DENIALS_KEPT}s; }}
add set inet {table} denial_rate {{ type ipv4_addr; size 65536; flags dynamic,timeout; timeout 300s; }}
add map inet {table} vms {{ type ipv4_addr : verdict; }}
add chain inet {table} denied
add chain inet {table} internet
add chain inet {table} forward {{ type filter hook forward priority filter; policy {others}; }}
add chain inet {table} input {{ type filter hook input priority filter; policy {others}; }}
add chain inet {table} output {{ type filter hook output priority filter; policy {others}; }}
add chain inet {table} postrouting {{ type nat hook postrouting priority srcnat; }}
flush chain inet {table} denied
flush chain inet {table} internet
flush chain inet {table} forward
flush chain inet {table} input
flush chain inet {table} output
flush chain inet {table} postrouting
add rule inet {table} denied update @denied_by {{ ip saddr counter }}
add rule inet {table} denied update @denial_rate {{ ip saddr limit rate over {rate}/second burst {burst} packets }} drop
add rule inet {table} denied meta l4proto {{ 6, 17 }} update @denials {{ ip saddr . ip daddr . meta l4proto . th dport counter }} drop
add rule inet {table} denied update @denials_other {{ ip saddr . ip daddr . meta l4proto counter }} drop
add rule inet {table} denied drop
add rule inet {table} internet ip daddr @closed goto denied
add rule inet {table} internet ip daddr @host goto denied
add rule inet {table} internet accept
add rule inet {table} forward iifname . oifname @networks accept
add rule inet {table} forward iifname "{bridges}*" oifname "{bridges}*" goto denied
add rule inet {table} forward iifname "{bridges}*" ip saddr vmap @vms
add rule inet {table} forward iifname "{bridges}*" goto denied
add rule inet {table} forward oifname "{bridges}*" ct direction reply ct state established,related accept
add rule inet {table} forward oifname "{bridges}*" drop
add rule inet {table} input iifname "{bridges}*" ip daddr {resolver} meta l4proto {{ 6, 17 }} th dport 53 accept
add rule inet {table} input iifname "{bridges}*" goto denied
add rule inet {table} output oifname "{bridges}*" ct state established,related accept
add rule inet {table} output oifname "{bridges}*" drop
add rule inet {table} postrouting iifname "{bridges}*" oifname != "{bridges}*" masquerade
add table bridge {table}
add set bridge {table} owners {{ type ifname . ether_addr . ipv4_addr; }}
add set bridge {table} taps {{ type ifname; }}
add chain bridge {table} guest
add chain bridge {table} guard {{ type filter hook prerouting priority filter; policy accept; }}
flush chain bridge {table} guest
flush chain bridge {table} guard
add rule bridge {table} guard iifname @taps goto guest
add rule bridge {table} guest ether type ip iifname . ether saddr . ip saddr @owners accept
add rule bridge {table} guest ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . ether saddr . arp saddr ip @owners iifname . arp saddr ether . arp saddr ip @owners accept
add rule bridge {table} guest counter drop
"#
    );
    // Where the kernel passes bridged packets to this hook (br_netfilter), packets between VMs of a network arrive too.
    if network != 0 {
        let bridge = owner.bridge(network);
        let _ = writeln!(text, "add element inet {table} networks {{ \"{bridge}\" . \"{bridge}\" }}");
    }
    if !host.is_empty() {
        let _ = writeln!(text, "add element inet {table} host {{ {} }}", list(host));
    }
    text
}

/// Attaches a VM under its policy, or changes its policy. Unchanged rules stay with the addresses learned for them.
pub fn attach(owner: Owner, address: Ipv4Addr, attachment: &Attachment, current: Option<&AttachedVm>) -> Change {
    let (vm, policy) = (&attachment.vm, &attachment.policy);
    let (own, rules) = (names::chain(vm), fingerprint(policy));
    let had_own_chain = current.is_some_and(|attached| attached.chain == own);
    let plain = policy.deny.is_empty() && policy.allow.is_empty();
    let known = had_own_chain && current.is_some_and(|attached| attached.fingerprint == Some(rules));
    let (chain, comment) = match policy.base {
        _ if !plain && !known => {
            return Change::Text(own_chain(owner, address, attachment, current.is_some(), rules));
        }
        _ if !plain => (own.as_str(), owner.tap_alias(vm) + &fingerprint_comment(rules)),
        Base::Internet => (names::INTERNET, owner.tap_alias(vm)),
        Base::Nothing => (names::NOTHING, owner.tap_alias(vm)),
    };
    if plain && had_own_chain {
        return Change::Text(delete_own_chain(owner, vm, address) + &elements(owner, vm, address, chain, ""));
    }
    let element = Element {
        key: address.octets().to_vec(),
        goto: Some(chain.to_owned()),
        comment: Some(comment),
        ..Element::default()
    };
    let owned = Element { key: owner_key(vm, address), comment: Some(owner.tap_alias(vm)), ..Element::default() };
    let tap = Element { key: nft::interface(&names::tap(vm)).to_vec(), ..Element::default() };
    let vms = owner.set(names::VMS);
    let moved = current.is_some_and(|attached| attached.chain != chain);
    let before = moved.then(|| vms.remove(vec![element.key.clone()]));
    let after =
        [vms.add(vec![element]), owner.set(names::TAPS).add(vec![tap]), owner.set(names::OWNERS).add(vec![owned])];
    Change::Edits(before.into_iter().chain(after).collect())
}

/// Renders the VM's chain anew and the map element that leads to it.
fn own_chain(owner: Owner, address: Ipv4Addr, attachment: &Attachment, stands: bool, rules: u64) -> String {
    let (table, vm, policy) = (owner.table(), &attachment.vm, &attachment.policy);
    let chain = names::chain(vm);
    let mut text = format!("add chain inet {table} {chain}\nflush chain inet {table} {chain}\n");
    if policy.allow.iter().any(|filter| filter.to == To::Learned) {
        text += &learned_sets(owner, vm, "flush");
    }
    for rule in policy_rules(policy, vm) {
        let _ = writeln!(text, "add rule inet {table} {chain} {rule}");
    }
    if stands {
        let _ = writeln!(text, "delete element inet {table} vms {{ {address} }}");
    }
    text + &elements(owner, vm, address, &chain, &fingerprint_comment(rules))
}

/// Part of the element's comment that identifies the rules of a VM's own chain.
fn fingerprint_comment(rules: u64) -> String {
    format!(" rules {rules:x}")
}

/// Elements of a VM in the shared sets.
fn elements(owner: Owner, vm: &VmId, address: Ipv4Addr, chain: &str, rules: &str) -> String {
    let (table, comment) = (owner.table(), owner.tap_alias(vm));
    format!(
        "add element inet {table} vms {{ {address} comment \"{comment}{rules}\" : goto {chain} }}\n\
         add element bridge {table} taps {{ \"{}\" }}\n\
         add element bridge {table} owners {{ {} comment \"{comment}\" }}\n",
        names::tap(vm),
        owner_element(vm, address)
    )
}

fn policy_rules(policy: &Policy, vm: &VmId) -> Vec<String> {
    let (any, port) = (names::learned_any(vm), names::learned_port(vm));
    let mut rules = Vec::new();
    for filter in &policy.deny {
        rules.extend(matches(filter).map(|matches| format!("{matches} goto denied")));
    }
    if policy.allow.iter().any(|filter| filter.to == To::Learned) {
        // A connection may outlive the answer that opened it, not the rules; a learned address may now be the host's.
        let mark = u32::try_from(fingerprint(policy) & 0xffff_ffff).expect("32 bits") | 1;
        let open = format!("ct mark set {mark:#x} accept");
        rules.push(format!("ip daddr != @host ct state established ct mark {mark:#x} accept"));
        rules.push(format!("ip daddr != @host ip daddr @{any} {open}"));
        rules.push(format!("ip daddr != @host meta l4proto {{ 6, 17 }} ip daddr . th dport @{port} {open}"));
    }
    for filter in &policy.allow {
        rules.extend(matches(filter).map(|matches| format!("{matches} accept")));
    }
    rules.push(match policy.base {
        Base::Internet => "goto internet".to_owned(),
        Base::Nothing => "goto denied".to_owned(),
    });
    rules
}

fn matches(filter: &Filter) -> Option<String> {
    let To::Block(block) = &filter.to else { return None };
    Some(match filter.port {
        Some(port) => format!("ip daddr {block} meta l4proto {{ 6, 17 }} th dport {port}"),
        None => format!("ip daddr {block}"),
    })
}

/// Hash of a policy and of the version of the rules made from it (FNV-1a).
fn fingerprint(policy: &Policy) -> u64 {
    const WRITTEN: u8 = 2;
    let text = serde_json::to_vec(&(WRITTEN, policy)).expect("a policy serializes");
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    text.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Removes an attached VM.
pub fn detach(owner: Owner, attached: &AttachedVm) -> Change {
    let AttachedVm { vm, address, chain, .. } = attached;
    if *chain == names::chain(vm) {
        let (table, tap, owned) = (owner.table(), names::tap(vm), owner_element(vm, *address));
        // Added before it is deleted: a deletion of a missing element would fail, as after a manual clean-up.
        return Change::Text(format!(
            "{}add element bridge {table} taps {{ \"{tap}\" }}\n\
             delete element bridge {table} taps {{ \"{tap}\" }}\n\
             add element bridge {table} owners {{ {owned} }}\n\
             delete element bridge {table} owners {{ {owned} }}\n",
            delete_own_chain(owner, vm, *address)
        ));
    }
    let mut edits = vec![owner.set(names::VMS).remove(vec![address.octets().to_vec()])];
    edits.extend(owner.set(names::TAPS).remove_any(nft::interface(&names::tap(vm)).to_vec()));
    edits.extend(owner.set(names::OWNERS).remove_any(owner_key(vm, *address)));
    Change::Edits(edits)
}

/// Deletes a VM's own chain and the map element that leads to it.
fn delete_own_chain(owner: Owner, vm: &VmId, address: Ipv4Addr) -> String {
    let (table, chain) = (owner.table(), names::chain(vm));
    format!(
        "delete element inet {table} vms {{ {address} }}\nflush chain inet {table} {chain}\n\
         delete chain inet {table} {chain}\n{}",
        learned_sets(owner, vm, "delete")
    )
}

/// Sets of addresses learned for a VM: made if missing, then emptied (`flush`) or deleted (`delete`).
fn learned_sets(owner: Owner, vm: &VmId, and: &str) -> String {
    let table = owner.table();
    let sets = [(names::learned_any(vm), "ipv4_addr"), (names::learned_port(vm), "ipv4_addr . inet_service")];
    let text = |(set, kind)| {
        format!(
            "add set inet {table} {set} {{ type {kind}; flags timeout; size {MAX_LEARNED}; }}\n\
             {and} set inet {table} {set}\n"
        )
    };
    sets.map(text).concat()
}

/// Deletes the user's tables.
pub fn delete_tables(owner: Owner) -> String {
    let table = owner.table();
    ["inet", "bridge"].map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n")).concat()
}

/// Opens learned addresses. The timeout of addresses already open starts again.
pub fn learn(owner: Owner, vm: &VmId, port: Option<u16>, addresses: &[Ipv4Addr], ttl: u32) -> Change {
    let name = if port.is_some() { names::learned_port(vm) } else { names::learned_any(vm) };
    let set = owner.set((Family::Inet, &name));
    let port = port.map(u16::to_be_bytes);
    let key = |address: &Ipv4Addr| match &port {
        Some(port) => nft::key(&[&address.octets(), port]),
        None => address.octets().to_vec(),
    };
    let keys: Vec<_> = addresses.iter().map(key).collect();
    let timeout = Some(Duration::from_secs(u64::from(ttl.saturating_add(GRACE))));
    let timed: Vec<_> = keys.iter().map(|key| Element { key: key.clone(), timeout, ..Element::default() }).collect();
    Change::Edits(vec![set.add(timed.clone()), set.remove(keys), set.add(timed)])
}

/// Tap, MAC and IPv4 address, as an element of the anti-spoofing set.
fn owner_element(vm: &VmId, address: Ipv4Addr) -> String {
    format!("\"{}\" . {} . {address}", names::tap(vm), names::mac(address))
}

fn owner_key(vm: &VmId, address: Ipv4Addr) -> Vec<u8> {
    nft::key(&[&nft::interface(&names::tap(vm)), &names::mac(address).0, &address.octets()])
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
