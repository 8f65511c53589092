//! A daemon taken over by an attacker: invalid frames and requests.

use crate::world::{Helper, World, attach, ensure, hold, policy, vm};
use banger_proto::helper::{Answer, Attachment, Base, Filter, MAX_REQUEST, MAX_RULES, Request, To};
use std::io::{Read, Write};

#[test]
fn nonsense_ends_a_conversation_and_changes_nothing() {
    if !banger_testkit::require("netns") {
        return;
    }
    let holder = hold(None);
    let oversized = u32::try_from(MAX_REQUEST + 1).unwrap().to_be_bytes();
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
    let nonsense: [Vec<u8>; 8] = [
        b"\xff\xff\xff\xff".to_vec(),
        oversized.to_vec(),
        b"\0\0".to_vec(),
        frame(b"{}"),
        frame(b"[]"),
        frame(br#"{"request":"run","command":"id"}"#),
        frame(br#"{"request":"detach_vm","vm":"../../etc"}"#),
        frame(br#"{"request":"detach_vm","vm":"000000000000","also":"x"}"#),
    ];
    for bytes in nonsense {
        let mut helper = Helper::start(&holder);
        helper.stream.write_all(&bytes).unwrap();
        helper.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = helper.stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{bytes:?}: {}", String::from_utf8_lossy(&answer));
        assert!(!helper.process.0.wait().unwrap().success(), "{bytes:?}");
    }
    let links = banger_testkit::NetNamespace::of(holder.pid()).command("ip -o link");
    assert_eq!(links.lines().count(), 1, "{links}");
}

#[test]
fn requests_out_of_bounds_are_refused_whole() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    let before = world.inside.command("nft list ruleset");
    let attachment = |network, host, policy| Request::AttachVm(Attachment { vm: vm(1), network, host, policy });
    let open = || policy(Base::Internet, &[], &[]);
    let many = vec![Filter { to: To::Block("10.0.0.0/8".parse().unwrap()), port: None }; MAX_RULES + 1];
    let refused = [
        attachment(64, 2, open()),
        attachment(5, 2, open()),
        attachment(0, 1, open()),
        attachment(0, 1023, open()),
        attachment(0, 9999, open()),
        attachment(0, 2, banger_proto::helper::Policy { allow: many, ..open() }),
        attachment(0, 2, policy(Base::Internet, &["learned"], &[])),
        attachment(0, 2, policy(Base::Internet, &["10.0.0.1:0"], &[])),
        Request::EnsureNetwork { block: "10.214.0.0/16".parse().unwrap(), network: 0, host: vec![] },
        Request::EnsureNetwork { block: "8.8.0.0/16".parse().unwrap(), network: 0, host: vec![] },
    ];
    for request in refused {
        let answer = world.helper.ask(&request);
        assert!(matches!(answer, Answer::Failed { .. }), "{request:?}: {answer:?}");
    }
    assert_eq!(world.inside.command("nft list ruleset"), before);
    // An address belongs to one VM.
    world.helper.done(&attach(0, 0, open()));
    let twin = Request::AttachVm(Attachment { vm: vm(9), network: 0, host: 2, policy: open() });
    assert!(matches!(world.helper.ask(&twin), Answer::Failed { .. }));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.inside.commands("ip link add bt000000000001 type bridge\nip link add bb0n7 type bridge");
    for request in [attach(1, 0, policy(Base::Internet, &[], &[])), ensure(7), Request::DetachVm { vm: vm(1) }] {
        let answer = world.helper.ask(&request);
        assert!(
            matches!(&answer, Answer::Failed { reason } if reason.contains("not banger's")),
            "{request:?}: {answer:?}"
        );
    }
    world.helper.done(&Request::Reconcile { vms: vec![vm(2)] });
    let links = world.inside.command("ip -o link");
    assert!(links.contains("bt000000000001") && links.contains("bb0n7"), "{links}");
}

/// A failed request leaves nothing behind.
#[test]
fn a_request_that_fails_half_way_is_undone() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    let everything = |world: &World| {
        let links = world.inside.command("ip -o link");
        let names = links.lines().map(|line| line.split(": ").nth(1).unwrap_or_default()).collect::<Vec<_>>();
        names.join(" ") + &world.inside.command("nft list ruleset")
    };
    // The gateway of the fourth network belongs to somebody else.
    world.inside.command("ip address add 10.213.12.1/32 dev lo");
    let before = everything(&world);
    let hosts = vec!["7.7.7.7".parse().unwrap()];
    let taken = Request::EnsureNetwork { block: "10.213.0.0/16".parse().unwrap(), network: 3, host: hosts };
    let answer = world.helper.ask(&taken);
    assert!(matches!(&answer, Answer::Failed { reason } if reason.contains("somebody else's")), "{answer:?}");
    assert_eq!(everything(&world), before, "neither a bridge nor the new address of the host");
    world.inside.command("ip address del 10.213.12.1/32 dev lo");
    world.helper.done(&taken);
    // Rules cannot be made where their table is missing.
    world.inside.command("nft delete table bridge banger_0");
    let before = everything(&world);
    for policy in [policy(Base::Internet, &[], &[]), policy(Base::Nothing, &[], &["learned", "10.0.0.0/8"])] {
        let answer = world.helper.ask(&attach(0, 0, policy));
        assert!(matches!(answer, Answer::Failed { .. }), "{answer:?}");
        assert_eq!(everything(&world), before);
    }
    world.helper.done(&ensure(0));
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
}

#[test]
fn the_helper_confines_itself() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    let layers = world.helper.status().confinement.join("\n");
    assert!(layers.contains("net_admin") && layers.contains("seccomp: on") && layers.contains("landlock:"), "{layers}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.helper.process.pid())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    // CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN bit 12.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(set), "0000000000001400", "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    let holder = std::fs::read_to_string(format!("/proc/{}/status", world.holder.pid())).unwrap();
    assert!(holder.contains("CapEff:\t0000000000000000") && holder.contains("CapBnd:\t0000000000000000"));
}
