//! Ordinary users: the helper serves them like root, and no user can affect another's network.

use crate::{
    guest::Guest,
    system::{Machine, ask},
    world::{Helper, INTERNET, LAN, User, World, attach, hold_as, policy, vm},
};
use banger_proto::helper::{Answer, Attachment, Base, Request};
use banger_testkit::require;
use std::{io::Read, process::Command};

const ONE: u32 = 54_321;
const OTHER: u32 = 54_322;

fn field(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

#[test]
fn two_users_do_not_see_each_other() {
    if !require("netns") || !require("root") {
        return;
    }
    let (first, second) = (User::new(ONE), User::new(OTHER));
    let (mut one, mut two) = (World::of(Some(&first)), World::of(Some(&second)));
    for (world, user) in [(&one, &first), (&two, &second)] {
        for process in [&world.holder, &world.helper.process] {
            let uid = user.uid.to_string();
            assert_eq!(field(process.pid(), "Uid:").split_whitespace().collect::<Vec<_>>(), [&uid; 4]);
        }
    }
    one.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
    assert_eq!(two.helper.status().vms, []);
    // The same VM id and address, in another user's network.
    two.helper.done(&attach(0, 0, policy(Base::Nothing, &[], &["192.168.77.1:80"])));
    let (guest, closed) = (Guest::new(&one, 0, 0), Guest::new(&two, 0, 0));
    guest.reaches(INTERNET, 80);
    guest.is_denied(&mut one, LAN, 80);
    closed.is_denied(&mut two, INTERNET, 80);
    closed.reaches(LAN, 80);
    assert!(one.helper.status().denials.iter().all(|denial| denial.to == LAN));
    // A new helper and changed rules work as for root.
    one.helper.process.kill();
    one.helper = Helper::start_as(Some(&first), &one.holder);
    one.helper.done(&crate::world::ensure(0));
    one.helper.done(&attach(0, 0, policy(Base::Nothing, &["9.9.9.9:5432"], &["9.9.9.0/24"])));
    guest.reaches(INTERNET, 80);
    guest.is_denied(&mut one, INTERNET, 5432);
    two.helper.done(&Request::Reconcile { vms: Vec::new() });
    assert_eq!(one.helper.status().vms, [vm(0)]);
    // Knowing the pid does not let another user in: neither with the helper nor with the system's programs.
    let mut intruder = Helper::start_as(Some(&second), &one.holder);
    let mut said = Vec::new();
    let _ = intruder.stream.read_to_end(&mut said);
    assert_eq!(said, b"");
    assert!(!intruder.process.0.wait().unwrap().success());
    let holder = one.holder.pid().to_string();
    let outsider = Command::new("setpriv")
        .args([
            &format!("--reuid={OTHER}"),
            "--clear-groups",
            "nsenter",
            "--user",
            "--net",
            "--target",
            &holder,
            "true",
        ])
        .output()
        .unwrap();
    assert!(!outsider.status.success());
    // A holder of the second user cannot join the first one's namespace.
    let joined = std::panic::catch_unwind(|| hold_as(Some(&second), Some(&one.holder)));
    assert!(joined.is_err());
    guest.reaches(INTERNET, 80);
}

#[test]
fn one_helper_of_a_machine_keeps_its_users_apart() {
    if !require("netns") || !require("systemd") || !require("root") {
        return;
    }
    let machine = Machine::new("users");
    let (mut one, mut other) = (machine.connect_as(ONE), machine.connect_as(OTHER));
    let ensure = |block: &str| Request::EnsureNetwork { block: block.parse().unwrap(), network: 0, host: vec![] };
    let attachment = |number, policy| Request::AttachVm(Attachment { vm: vm(number), network: 0, host: 2, policy });
    let open = || policy(Base::Internet, &[], &[]);
    for request in [ensure("10.213.0.0/16"), attachment(1, open())] {
        let answer = ask(&mut one, &request);
        assert!(matches!(answer, Answer::Done | Answer::Resolver), "{request:?}: {answer:?}");
    }
    let first = machine.space.command("nft list table inet banger_54321");
    let status = |answer| match answer {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(ask(&mut other, &Request::Status { of: None })).vms, []);
    // Every request of the other user affects its own objects or is refused.
    for (request, refusal) in [
        (ensure("10.213.0.0/16"), Some("somebody else's")),
        (ensure("10.214.0.0/16"), None),
        (attachment(1, open()), Some("not banger's")),
        (Request::DetachVm { vm: vm(1) }, Some("not banger's")),
        (attachment(2, policy(Base::Nothing, &[], &["10.213.0.0/16"])), None),
        (Request::Reconcile { vms: vec![] }, None),
    ] {
        match (ask(&mut other, &request), refusal) {
            (Answer::Failed { reason }, Some(refusal)) => assert!(reason.contains(refusal), "{request:?}: {reason}"),
            (Answer::Done | Answer::Resolver, None) => {}
            (answer, _) => panic!("{request:?}: {answer:?}"),
        }
    }
    assert_eq!(machine.space.command("nft list table inet banger_54321"), first);
    assert_eq!(status(ask(&mut one, &Request::Status { of: None })).vms, [vm(1)]);
    let links = machine.space.command("ip -o link");
    assert!(links.contains("bb54321n0") && !links.contains("bb54322n"), "{links}");
}
