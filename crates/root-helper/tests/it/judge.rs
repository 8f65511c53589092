//! Judges the effects of any requests; shared by the tests and the fuzz target `helper`.
//!
//! The input is a user's id (four bytes, big-endian) and then frames. For each accepted request, every possible change
//! of the rules is checked, for every chain the VM may have been in before: it must name only objects derived from that
//! user's and that VM's ids.

use banger_netlink::nft::{Act, Edit, Element, Family};
use banger_proto::{
    helper::{Attachment, Request, To},
    name::VmId,
    network::{Cidr, is_public},
};
use banger_root_helper::{
    check::check,
    names::{self, Owner},
    rules::{self, Change, Scope},
    serve,
    status::AttachedVm,
};
use std::net::Ipv4Addr;

/// Reads frames like the helper and judges their effects; returns the number of accepted requests.
pub(crate) fn bytes(data: &[u8]) -> usize {
    let Some((uid, mut frames)) = data.split_first_chunk() else { return 0 };
    let owner = Owner(u32::from_be_bytes(*uid));
    let mut accepted = 0;
    // An invalid frame ends the connection.
    while let Ok(Some(asked)) = serve::read(&mut frames) {
        accepted += usize::from(check(&asked).is_ok_and(|()| {
            request(owner, &asked);
            true
        }));
    }
    accepted
}

/// Judges an accepted request.
pub(crate) fn request(owner: Owner, request: &Request) {
    let first: Cidr = "10.213.0.0/16".parse().expect("a block");
    match request {
        Request::EnsureNetwork { block, network, host } => {
            for scope in [Scope::OwnNamespace, Scope::Machine(first)] {
                tables(owner, *network, &rules::tables(owner, scope, *block, *network, host));
            }
            assert!(names::gateway(*block, *network).is_some_and(|gateway| !is_public(gateway)));
        }
        Request::AttachVm(attachment) => attach(owner, first, attachment),
        Request::DetachVm { vm } => detach(owner, vm),
        Request::LearnAddresses { vm, addresses, ttl, .. } => {
            for port in [None, Some(443)] {
                let Change::Edits(edits) = rules::learn(owner, vm, port, addresses, *ttl) else {
                    panic!("an answer needs no text");
                };
                let own = [names::learned_any(vm), names::learned_port(vm)];
                assert!(edits.iter().all(|edit| edit.set.table == owner.table() && own.contains(&edit.set.name)));
            }
        }
        Request::Reconcile { vms } => vms.iter().for_each(|vm| detach(owner, vm)),
        Request::Status { .. } => {}
    }
    for line in rules::delete_tables(owner).lines() {
        assert!(line.ends_with(&owner.table()), "{line}");
    }
}

fn attach(owner: Owner, block: Cidr, attachment: &Attachment) {
    let vm = &attachment.vm;
    let address = names::address(block, attachment.network, attachment.host).expect("an accepted one has an address");
    let own = names::chain(vm);
    let place =
        |(chain, fingerprint): (&str, _)| AttachedVm { vm: vm.clone(), address, chain: chain.to_owned(), fingerprint };
    let standings = [(names::INTERNET, None), (names::NOTHING, None), (&own, None), (&own, Some(1))].map(place);
    for standing in standings.iter().map(Some).chain([None]) {
        let change = rules::attach(owner, address, attachment, standing);
        judge(owner, vm, address, &change);
        let Change::Text(text) = &change else { continue };
        // Every rule ends in a verdict or one of our jumps, and one more than the policy has filters decides the rest.
        let table = owner.table();
        let rules: Vec<_> = text.lines().filter(|line| line.starts_with("add rule ")).collect();
        for rule in &rules {
            assert!(rule.starts_with(&format!("add rule inet {table} {own} ")), "{rule}");
            assert!(["accept", "goto denied", "goto internet"].iter().any(|end| rule.ends_with(end)), "{rule}");
        }
        let policy = &attachment.policy;
        let blocks = policy.deny.iter().chain(&policy.allow).filter(|filter| matches!(filter.to, To::Block(_))).count();
        let learns = if policy.allow.iter().any(|filter| filter.to == To::Learned) { 3 } else { 0 };
        assert!(rules.is_empty() || rules.len() == blocks + learns + 1, "{text}");
    }
}

fn detach(owner: Owner, vm: &VmId) {
    let address = Ipv4Addr::new(10, 213, 0, 2);
    for chain in [names::chain(vm), names::INTERNET.to_owned(), names::NOTHING.to_owned()] {
        let place = AttachedVm { vm: vm.clone(), address, chain, fingerprint: None };
        judge(owner, vm, address, &rules::detach(owner, &place));
    }
}

fn judge(owner: Owner, vm: &VmId, address: Ipv4Addr, change: &Change) {
    match change {
        Change::Text(text) => text.lines().for_each(|line| judge_line(owner, vm, line)),
        Change::Edits(edits) => edits.iter().for_each(|edit| judge_edit(owner, vm, address, edit)),
    }
}

fn judge_line(owner: Owner, vm: &VmId, line: &str) {
    let own = [names::tap(vm), owner.tap_alias(vm)];
    for quoted in line.split('"').skip(1).step_by(2) {
        let (name, rules) = quoted.split_once(" rules ").unwrap_or((quoted, ""));
        assert!(own.iter().any(|own| own == name) && u64::from_str_radix(&format!("0{rules}"), 16).is_ok(), "{line}");
    }
    let words: Vec<&str> = line.split(' ').collect();
    assert!(matches!(words[0], "add" | "flush" | "delete"), "{line}");
    assert!(matches!(words[2], "inet" | "bridge") && words[3] == owner.table(), "{line}");
    let shared = matches!((words[1], words[4]), ("element", "vms" | "owners" | "taps"));
    assert!(shared || words[4].ends_with(vm.as_str()), "{line}");
}

fn judge_edit(owner: Owner, vm: &VmId, address: Ipv4Addr, edit: &Edit) {
    let tap = banger_netlink::nft::interface(&names::tap(vm));
    let (family, key) = if edit.set == owner.set(names::VMS) {
        (Family::Inet, address.octets().to_vec())
    } else if edit.set == owner.set(names::TAPS) {
        (Family::Bridge, tap.to_vec())
    } else {
        assert_eq!(edit.set, owner.set(names::OWNERS));
        (Family::Bridge, banger_netlink::nft::key(&[&tap, &names::mac(address).0, &address.octets()]))
    };
    assert_eq!(edit.set.family, family);
    match &edit.act {
        Act::Remove(keys) => assert_eq!(*keys, [key]),
        Act::Add(elements) => {
            let [Element { key: added, goto, comment, .. }] = &elements[..] else { panic!("{elements:?}") };
            assert_eq!(*added, key);
            assert!(goto.as_deref().is_none_or(|chain| [names::INTERNET, names::NOTHING].contains(&chain)));
            assert!(comment.as_ref().is_none_or(|comment| *comment == owner.tap_alias(vm)));
        }
    }
}

/// Only this user's bridges may be named as interfaces.
fn tables(owner: Owner, network: u8, text: &str) {
    let (bridges, bridge) = (format!("{}*", owner.bridges()), owner.bridge(network));
    for quoted in text.split('"').skip(1).step_by(2) {
        assert!(quoted == bridges || quoted == bridge, "{quoted}");
    }
    for line in text.lines() {
        assert_eq!(line.split(' ').nth(3), Some(owner.table().as_str()), "{line}");
    }
}
