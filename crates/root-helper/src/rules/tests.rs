//! The rules, read as text, and what of a request can be in them.

use super::*;

fn block() -> Cidr {
    "10.213.0.0/16".parse().unwrap()
}

#[test]
fn the_tables_as_text() {
    let host = [Ipv4Addr::new(192, 168, 1, 7)];
    insta::assert_snapshot!(tables(Owner(1000), Scope::OwnNamespace, block(), 3, &host));
}

#[test]
fn a_vm_as_text() {
    let filter = |to, port| Filter { to, port };
    let attachment = Attachment {
        vm: "0123456789ab".parse().unwrap(),
        network: 0,
        host: 5,
        policy: Policy {
            base: Base::Nothing,
            deny: vec![filter(To::Block("10.0.0.0/8".parse().unwrap()), Some(22))],
            allow: vec![filter(To::Learned, Some(443)), filter(To::Block("192.168.1.0/24".parse().unwrap()), None)],
        },
    };
    let owner = Owner(1000);
    let address = names::address(block(), 0, 5).unwrap();
    let vm = attachment.vm.clone();
    let place = |chain: &str| AttachedVm { vm: vm.clone(), address, chain: chain.to_owned(), fingerprint: None };
    let (shared, own) = (place("internet"), place(&names::chain(&vm)));
    let plain =
        Attachment { policy: Policy { base: Base::Internet, deny: vec![], allow: vec![] }, ..attachment.clone() };
    let text = [
        ("new", attach(owner, address, &attachment, None)),
        ("instead of the shared chain", attach(owner, address, &attachment, Some(&shared))),
        ("the shared chain instead", attach(owner, address, &plain, Some(&own))),
        ("gone", detach(owner, &own)),
        ("no tables", Change::Text(delete_tables(owner))),
    ];
    let text = text.map(|(what, change)| match change {
        Change::Text(text) => format!("# {what}\n{text}"),
        Change::Edits(edits) => panic!("{what}: {edits:?}"),
    });
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_vm_without_rules_of_its_own_is_three_elements() {
    let (owner, vm) = (Owner(1000), "0123456789ab".parse::<VmId>().unwrap());
    let address = names::address(block(), 0, 5).unwrap();
    let attachment =
        |base| Attachment { vm: vm.clone(), network: 0, host: 5, policy: Policy { base, deny: vec![], allow: vec![] } };
    let edits = |change| match change {
        Change::Edits(edits) => edits,
        Change::Text(text) => panic!("{text}"),
    };
    let comes = edits(attach(owner, address, &attachment(Base::Internet), None));
    let alias = Some(owner.tap_alias(&vm));
    let element = |key: Vec<u8>| Element { key, ..Element::default() };
    let tap = *b"bt0123456789ab\0\0";
    let owned = nft::key(&[&tap, &[2, 0x62, 10, 213, 0, 5], &[10, 213, 0, 5]]);
    let goto = Some("internet".to_owned());
    let way = Element { goto, comment: alias.clone(), ..element(vec![10, 213, 0, 5]) };
    let expected = [
        owner.set((Family::Inet, "vms")).add(vec![way]),
        owner.set((Family::Bridge, "taps")).add(vec![element(tap.to_vec())]),
        owner.set((Family::Bridge, "owners")).add(vec![Element { comment: alias, ..element(owned) }]),
    ];
    assert_eq!(comes, expected);
    // The same again is the same.
    let place = |chain: &str| AttachedVm { vm: vm.clone(), address, chain: chain.to_owned(), fingerprint: None };
    assert_eq!(edits(attach(owner, address, &attachment(Base::Internet), Some(&place("internet")))), comes);
    // Another policy takes the element's place in the same transaction.
    let closed = edits(attach(owner, address, &attachment(Base::Nothing), Some(&place("internet"))));
    let gone = owner.set(names::VMS).remove(vec![address.octets().to_vec()]);
    assert_eq!((closed.len(), &closed[0]), (4, &gone));
    assert!(edits(detach(owner, &place("denied"))).contains(&gone));
}

#[test]
fn rules_that_are_there_already_stay() {
    let (owner, vm) = (Owner(1000), "0123456789ab".parse::<VmId>().unwrap());
    let address = names::address(block(), 0, 5).unwrap();
    let attachment = |port| {
        let allow = vec![Filter { to: To::Learned, port: Some(port) }];
        let policy = Policy { base: Base::Nothing, deny: vec![], allow };
        Attachment { vm: vm.clone(), network: 0, host: 5, policy }
    };
    let known = fingerprint(&attachment(443).policy);
    let place = AttachedVm { vm: vm.clone(), address, chain: names::chain(&vm), fingerprint: Some(known) };
    let Change::Text(text) = attach(owner, address, &attachment(443), None) else { panic!("no rules") };
    assert!(text.contains(&format!("rules {known:x}")), "{text}");
    assert!(matches!(attach(owner, address, &attachment(443), Some(&place)), Change::Edits(_)));
    assert!(matches!(attach(owner, address, &attachment(80), Some(&place)), Change::Text(_)));
    // Nobody knows which rules they are.
    let unknown = AttachedVm { fingerprint: None, ..place };
    assert!(matches!(attach(owner, address, &attachment(443), Some(&unknown)), Change::Text(_)));
}

#[test]
fn an_answer_opens_an_address_a_little_longer_than_it_is_good_for() {
    let (owner, vm) = (Owner(1000), "0123456789ab".parse::<VmId>().unwrap());
    let Change::Edits(edits) = learn(owner, &vm, Some(443), &[Ipv4Addr::new(1, 2, 3, 4)], 60) else { panic!("text") };
    let set = owner.set((Family::Inet, "lp_0123456789ab"));
    let key = vec![1, 2, 3, 4, 1, 187, 0, 0];
    let timeout = Some(Duration::from_secs(70));
    let element = Element { key: key.clone(), timeout, ..Element::default() };
    // The last one gives it its time anew, where it was there already.
    assert_eq!(edits, [set.add(vec![element.clone()]), set.remove(vec![key]), set.add(vec![element])]);
}
