//! The rules, read as text, and what of a request can be in them.

use super::*;
use crate::check::check;
use banger_proto::helper::{MAX_RULES, NETWORKS, Request};
use proptest::prelude::*;

fn block() -> Cidr {
    "10.213.0.0/16".parse().unwrap()
}

#[test]
fn the_tables_as_text() {
    let host = [Ipv4Addr::new(192, 168, 1, 7)];
    insta::assert_snapshot!(tables(Owner(1000), Place::OwnNamespace, block(), 3, &host));
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
    let text = [
        attach(owner, address, &attachment),
        learn(owner, &attachment.vm, Some(443), &[Ipv4Addr::new(1, 2, 3, 4)], 60),
        detach(owner, Some(address), &attachment.vm),
        nothing(owner),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

fn filters(learn: bool) -> impl Strategy<Value = Vec<Filter>> {
    let block = (any::<u32>(), 0_u8..=32).prop_map(|(bits, prefix)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        To::Block(Cidr::new(Ipv4Addr::from_bits(bits & mask), prefix).unwrap())
    });
    let to =
        (block, any::<bool>()).prop_map(move |(block, learned)| if learn && learned { To::Learned } else { block });
    let port = prop_oneof![Just(None), (1..=u16::MAX).prop_map(Some)];
    prop::collection::vec((to, port).prop_map(|(to, port)| Filter { to, port }), 0..=MAX_RULES)
}

fn attachments() -> impl Strategy<Value = Attachment> {
    let base = prop_oneof![Just(Base::Internet), Just(Base::Nothing)];
    ("[0-9a-f]{12}", 0..NETWORKS, 2_u16..1023, base, filters(false), filters(true)).prop_map(
        |(vm, network, host, base, deny, allow)| Attachment {
            vm: vm.parse().unwrap(),
            network,
            host,
            policy: Policy { base, deny, allow },
        },
    )
}

proptest! {
    /// Whatever is accepted names nothing but what is derived from this user's and this VM's ids.
    #[test]
    fn an_accepted_request_names_only_what_is_its_own(attachment in attachments(), uid: u32) {
        let owner = Owner(uid);
        let request = Request::AttachVm(attachment.clone());
        prop_assert_eq!(check(&request), Ok(()));
        let address = names::address(block(), attachment.network, attachment.host).unwrap();
        let text = attach(owner, address, &attachment);
        let (table, vm) = (owner.table(), &attachment.vm);
        let own = [names::tap(vm), owner.tap_alias(vm)];
        for quoted in text.split('"').skip(1).step_by(2) {
            prop_assert!(own.iter().any(|own| own == quoted), "{quoted}");
        }
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            prop_assert!(matches!(words[0], "add" | "flush"), "{line}");
            prop_assert!(matches!(words[2], "inet" | "bridge") && words[3] == table, "{line}");
            let object = words[4];
            let shared = matches!((words[1], object), ("element", "vms" | "owners" | "taps"));
            prop_assert!(shared || object.ends_with(vm.as_str()), "{line}");
        }
        // Every rule ends in a verdict or a jump of ours.
        let chain = names::chain(vm);
        for rule in text.lines().filter_map(|line| line.strip_prefix(&format!("add rule inet {table} {chain} "))) {
            let verdict = ["accept", "goto denied", "goto internet"].iter().any(|end| rule.ends_with(end));
            prop_assert!(verdict, "{rule}");
        }
    }
}
