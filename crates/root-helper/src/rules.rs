//! The rules as nftables' text: pure functions, tested as text. Each text is one transaction.
//!
//! ```text
//!  bridge prerouting   a frame from a tap must come from its VM's MAC and IPv4 address; ARP too; nothing else passes
//!  inet forward        from a VM: its own chain decides, every packet. To a VM: answers only
//!  inet input          from a VM: DNS at the first gateway only
//!  inet output         answers only
//!  inet postrouting    what leaves gets the namespace's own address
//! ```
//!
//! A VM's chain is its policy, and replacing it is one transaction. Everything may be added twice and removed twice.

use crate::{
    check::CLOSED,
    names::{self, Owner},
};
use banger_proto::{
    helper::{Attachment, Base, Filter, Policy, To},
    name::VmId,
    network::Cidr,
};
use std::{fmt::Write, net::Ipv4Addr};

/// Destinations that are remembered when packets to them were denied.
const MAX_DENIALS: u32 = 4096;
/// How long they are, in seconds.
pub(crate) const DENIALS_KEPT: u32 = 3600;
/// Addresses one VM may have learnt at a time.
const MAX_LEARNED: u32 = 4096;
/// How much longer than its answer an address is open: a connection is made after the answer was read.
const GRACE: u32 = 30;

/// Whose network namespace the rules are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Banger's own: nothing else is in it.
    OwnNamespace,
    /// The machine's, which has a life beside VMs.
    Machine,
}

/// The tables, whole: rules are replaced, and what is known of VMs stays.
pub fn tables(owner: Owner, place: Place, block: Cidr, network: u8, host: &[Ipv4Addr]) -> String {
    let (table, bridges) = (owner.table(), owner.bridges());
    let closed = list(&CLOSED);
    // A monitor stands in banger's own namespace too: whatever it sends by itself goes nowhere. On a machine that is
    // shared, what is not from or to a guest is none of our business.
    let others = match place {
        Place::OwnNamespace => "drop",
        Place::Machine => "accept",
    };
    let resolver = names::gateway(block, 0).expect("a checked block has a first gateway");
    let mut text = format!(
        r#"add table inet {table}
add set inet {table} closed {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {closed} }}; }}
add set inet {table} host {{ type ipv4_addr; }}
flush set inet {table} host
add set inet {table} networks {{ type ifname . ifname; }}
add set inet {table} denied_by {{ type ipv4_addr; size 65536; flags dynamic; }}
add set inet {table} denials {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size {MAX_DENIALS}; flags dynamic,timeout; timeout {DENIALS_KEPT}s; }}
add set inet {table} denials_other {{ type ipv4_addr . ipv4_addr . inet_proto; size {MAX_DENIALS}; flags dynamic,timeout; timeout {DENIALS_KEPT}s; }}
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
    // Where the kernel shows this hook what only passes a bridge (br_netfilter), peers meet here too.
    if network != 0 {
        let bridge = owner.bridge(network);
        let _ = writeln!(text, "add element inet {table} networks {{ \"{bridge}\" . \"{bridge}\" }}");
    }
    if !host.is_empty() {
        let _ = writeln!(text, "add element inet {table} host {{ {} }}", list(host));
    }
    text
}

/// A VM's place and policy; or, of one that has its place, the new policy.
pub fn attach(owner: Owner, address: Ipv4Addr, attachment: &Attachment) -> String {
    let (table, vm) = (owner.table(), &attachment.vm);
    let (chain, any, port) = (names::chain(vm), names::learned_any(vm), names::learned_port(vm));
    let policy = &attachment.policy;
    let mut text = format!("add chain inet {table} {chain}\nflush chain inet {table} {chain}\n");
    let learns = policy.allow.iter().any(|filter| filter.to == To::Learned);
    if learns {
        let _ = writeln!(
            text,
            "add set inet {table} {any} {{ type ipv4_addr; flags timeout; size {MAX_LEARNED}; }}\n\
             flush set inet {table} {any}\n\
             add set inet {table} {port} {{ type ipv4_addr . inet_service; flags timeout; size {MAX_LEARNED}; }}\n\
             flush set inet {table} {port}"
        );
    }
    for rule in policy_rules(policy, &any, &port) {
        let _ = writeln!(text, "add rule inet {table} {chain} {rule}");
    }
    let comment = owner.tap_alias(vm);
    let _ = writeln!(text, "add element inet {table} vms {{ {address} comment \"{comment}\" : goto {chain} }}");
    let _ = writeln!(
        text,
        "add element bridge {table} taps {{ \"{}\" }}\n\
         add element bridge {table} owners {{ {} comment \"{comment}\" }}",
        names::tap(vm),
        place(vm, address)
    );
    text
}

fn policy_rules(policy: &Policy, any: &str, port: &str) -> Vec<String> {
    let mut rules = Vec::new();
    for filter in &policy.deny {
        rules.extend(matches(filter).map(|matches| format!("{matches} goto denied")));
    }
    if policy.allow.iter().any(|filter| filter.to == To::Learned) {
        // A connection outlives the answer that opened it, but not the rules that did.
        let mark = fingerprint(policy);
        rules.push(format!("ct state established ct mark {mark:#x} accept"));
        rules.push(format!("ip daddr @{any} ct mark set {mark:#x} accept"));
        rules.push(format!("meta l4proto {{ 6, 17 }} ip daddr . th dport @{port} ct mark set {mark:#x} accept"));
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

/// A number that changes when the policy does (FNV-1a).
fn fingerprint(policy: &Policy) -> u32 {
    let text = serde_json::to_vec(policy).expect("a policy serializes");
    text.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) | 1
}

/// Nothing of a VM.
pub fn detach(owner: Owner, address: Option<Ipv4Addr>, vm: &VmId) -> String {
    let (table, chain) = (owner.table(), names::chain(vm));
    let tap = names::tap(vm);
    let mut text = format!(
        "add chain inet {table} {chain}\n\
         add element bridge {table} taps {{ \"{tap}\" }}\n\
         delete element bridge {table} taps {{ \"{tap}\" }}\n"
    );
    if let Some(address) = address {
        let place = place(vm, address);
        let _ = writeln!(
            text,
            "add element inet {table} vms {{ {address} : goto {chain} }}\n\
             delete element inet {table} vms {{ {address} }}\n\
             add element bridge {table} owners {{ {place} }}\n\
             delete element bridge {table} owners {{ {place} }}\n\
             add element inet {table} denied_by {{ {address} }}\n\
             delete element inet {table} denied_by {{ {address} }}"
        );
    }
    let _ = writeln!(text, "flush chain inet {table} {chain}\ndelete chain inet {table} {chain}");
    for (set, kind) in [(names::learned_any(vm), "ipv4_addr"), (names::learned_port(vm), "ipv4_addr . inet_service")] {
        let _ = writeln!(
            text,
            "add set inet {table} {set} {{ type {kind}; flags timeout; size {MAX_LEARNED}; }}\n\
             delete set inet {table} {set}"
        );
    }
    text
}

/// No tables.
pub fn nothing(owner: Owner) -> String {
    let table = owner.table();
    ["inet", "bridge"].map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n")).concat()
}

/// Addresses that a rule opens from now on. Those that are open already are so anew.
pub fn learn(owner: Owner, vm: &VmId, port: Option<u16>, addresses: &[Ipv4Addr], ttl: u32) -> String {
    let table = owner.table();
    let (set, suffix) = match port {
        Some(port) => (names::learned_port(vm), format!(" . {port}")),
        None => (names::learned_any(vm), String::new()),
    };
    let keys: Vec<String> = addresses.iter().map(|address| format!("{address}{suffix}")).collect();
    let seconds = ttl.saturating_add(GRACE);
    let timed: Vec<String> = keys.iter().map(|key| format!("{key} timeout {seconds}s")).collect();
    let (keys, timed) = (keys.join(", "), timed.join(", "));
    format!(
        "add element inet {table} {set} {{ {timed} }}\n\
         delete element inet {table} {set} {{ {keys} }}\n\
         add element inet {table} {set} {{ {timed} }}\n"
    )
}

/// Tap, MAC and IPv4 address, as the anti-spoofing set has them.
fn place(vm: &VmId, address: Ipv4Addr) -> String {
    let mac = names::mac(address).map(|byte| format!("{byte:02x}")).join(":");
    format!("\"{}\" . {mac} . {address}", names::tap(vm))
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
