//! Generated and collected requests: an accepted one changes only the requester's own objects.

use crate::judge;
use banger_proto::{
    framing,
    helper::{
        Attachment, Base, Filter, MAX_HOST_ADDRESSES, MAX_LEARNED, MAX_RULES, MAX_TTL, NETWORKS, Policy, Request, To,
    },
    name::VmId,
    network::Cidr,
};
use banger_root_helper::{check::check, names::Owner};
use proptest::prelude::*;
use std::{net::Ipv4Addr, path::Path};

/// Corpus of the fuzz target `helper`.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/helper");

fn vm() -> impl Strategy<Value = VmId> {
    "[0-9a-f]{12}".prop_map(|id| id.parse().unwrap())
}

fn addresses(most: usize) -> impl Strategy<Value = Vec<Ipv4Addr>> {
    prop::collection::vec(any::<u32>().prop_map(Ipv4Addr::from_bits), 0..=most)
}

fn block() -> impl Strategy<Value = Cidr> {
    (any::<u32>(), 0_u8..=32).prop_map(|(bits, prefix)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Cidr::new(Ipv4Addr::from_bits(bits & mask), prefix).unwrap()
    })
}

fn filters(learn: bool) -> impl Strategy<Value = Vec<Filter>> {
    let to = (block(), any::<bool>())
        .prop_map(move |(block, learned)| if learn && learned { To::Learned } else { To::Block(block) });
    let port = prop_oneof![Just(None), (1..=u16::MAX).prop_map(Some)];
    prop::collection::vec((to, port).prop_map(|(to, port)| Filter { to, port }), 0..=MAX_RULES)
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let base = prop_oneof![Just(Base::Internet), Just(Base::Nothing)];
    let rules = prop_oneof![(filters(false), filters(true)), Just((Vec::new(), Vec::new()))];
    (vm(), 0..NETWORKS, 2_u16..1023, base, rules).prop_map(|(vm, network, host, base, (deny, allow))| Attachment {
        vm,
        network,
        host,
        policy: Policy { base, deny, allow },
    })
}

/// Strategy for requests that are accepted.
fn requests() -> impl Strategy<Value = Request> {
    let private = any::<u8>().prop_map(|second| Cidr::new(Ipv4Addr::new(10, second, 0, 0), 16).unwrap());
    prop_oneof![
        (private, 0..NETWORKS, addresses(MAX_HOST_ADDRESSES))
            .prop_map(|(block, network, host)| Request::EnsureNetwork { block, network, host }),
        attachment().prop_map(Request::AttachVm),
        vm().prop_map(|vm| Request::DetachVm { vm }),
        (vm(), 0..u8::try_from(MAX_RULES).unwrap(), addresses(MAX_LEARNED), 0..=MAX_TTL)
            .prop_map(|(vm, rule, addresses, ttl)| Request::LearnAddresses { vm, rule, addresses, ttl }),
        prop::collection::vec(vm(), 0..20).prop_map(|vms| Request::Reconcile { vms }),
        prop::option::of(vm()).prop_map(|of| Request::Status { of }),
    ]
}

proptest! {
    #[test]
    fn an_accepted_request_names_only_what_is_its_own(request in requests(), uid: u32) {
        prop_assert_eq!(check(&request), Ok(()));
        judge::request(Owner(uid), &request);
    }

    #[test]
    fn frames_with_bytes_changed_do_no_harm(request in requests(), uid: u32, changes: Vec<(u16, u8)>) {
        let mut data = [&uid.to_be_bytes()[..], &framing::encode(&request).unwrap()].concat();
        prop_assert_eq!(judge::bytes(&data), 1);
        for (at, byte) in changes {
            let at = usize::from(at) % data.len();
            data[at] = byte;
        }
        judge::bytes(&data);
    }
}

#[test]
fn the_corpus_is_read_and_does_no_harm() {
    let mut accepted = 0;
    for file in std::fs::read_dir(Path::new(CORPUS)).unwrap() {
        let path = file.unwrap().path();
        eprintln!("{}", path.display());
        accepted += judge::bytes(&std::fs::read(path).unwrap());
    }
    assert!(accepted > 10, "the corpus has requests of every kind in it: {accepted}");
}
