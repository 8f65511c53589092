//! VMs, helpers and holders come and go: what is left of them.

use crate::{
    guest::Guest,
    world::{Helper, INTERNET, LAN, World, attach, ensure, hold, policy, vm},
};
use banger_proto::helper::{Base, Request};
use banger_testkit::NetNamespace;
use std::os::unix::fs::MetadataExt;

const VMS: u16 = 50;

#[test]
fn fifty_vms_that_come_and_go_leave_nothing() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&ensure(2));
    let before = world.inside.command("nft -s list ruleset");
    // Packets of one of them are denied, which is recorded as long as the VM exists.
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
    let guest = Guest::new(&world, 0, 0);
    guest.is_denied(&mut world, LAN, 80);
    world.helper.done(&Request::DetachVm { vm: vm(0) });
    assert_eq!(world.inside.command("nft -s list ruleset"), before);
    let mut attached = [false; VMS as usize];
    // A fixed seed, so that a failure is reproducible.
    let mut random = 1_u32;
    let mut next = move |end: u16| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u16::try_from((random >> 16) % u32::from(end)).unwrap()
    };
    let learns = policy(Base::Nothing, &["9.9.9.9"], &["learned:443", "10.0.0.0/8:22"]);
    for step in 0..3 * VMS {
        let number = next(VMS);
        let slot = &mut attached[usize::from(number)];
        if *slot && next(3) > 0 {
            world.helper.done(&Request::DetachVm { vm: vm(number) });
            *slot = false;
        } else {
            let network = if number % 2 == 0 { 0 } else { 2 };
            world.helper.done(&attach(
                number,
                network,
                if number % 3 == 0 { learns.clone() } else { policy(Base::Internet, &[], &[]) },
            ));
            *slot = true;
        }
        if step == VMS {
            // A helper without memory continues with the state in the kernel.
            world.replace_helper();
            world.helper.done(&ensure(2));
        }
    }
    let mut there = world.helper.status().vms;
    there.sort();
    let expected: Vec<_> = (0..VMS).filter(|number| attached[usize::from(*number)]).map(vm).collect();
    assert_eq!(there, expected);
    // Half of them are detached one by one, the rest is reconciled away.
    for id in &expected[..expected.len() / 2] {
        world.helper.done(&Request::DetachVm { vm: id.clone() });
        world.helper.done(&Request::DetachVm { vm: id.clone() });
    }
    world.helper.done(&Request::Reconcile { vms: vec![vm(4242)] });
    assert_eq!(world.traces(), Vec::<String>::new());
    assert_eq!(world.inside.command("nft -s list ruleset"), before);
    let helper = world.helper.process.pid();
    let children = std::fs::read_to_string(format!("/proc/{helper}/task/{helper}/children")).unwrap();
    assert_eq!(children, "", "no nft is left");
    world.helper.done(&Request::Reconcile { vms: Vec::new() });
    assert_eq!(world.inside.command("nft -s list ruleset"), "");
    let links = world.inside.command("ip -o link");
    assert!(!links.contains("bb0"), "{links}");
}

#[test]
fn who_holds_the_namespace_can_be_replaced() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
    let guest = Guest::new(&world, 0, 0);
    guest.reaches(INTERNET, 80);
    let inode = |pid: u32| std::fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino();
    let before = inode(world.holder.pid());
    world.holder.kill();
    guest.reaches(INTERNET, 80);
    // Joined through a process that is still in it: here the helper, else a VMM.
    world.holder = hold(Some(&world.helper.process));
    assert_eq!(inode(world.holder.pid()), before);
    world.replace_helper();
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
    guest.reaches(INTERNET, 80);
    assert_eq!(world.inside.command("ip -o link").matches("bt0000").count(), 1, "nothing is doubled");
}

#[test]
fn a_holder_nobody_writes_down_ends() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut holder = std::process::Command::new(env!("CARGO_BIN_EXE_bangerd-root"))
        .arg("hold")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}

#[test]
fn a_holder_that_is_not_the_one_that_was_meant_is_not_joined() {
    if !banger_testkit::require("netns") {
        return;
    }
    let holder = hold(None);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bangerd-root"))
        .args(["serve", &holder.pid().to_string(), "1"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("not the one that was meant"), "{words}");
}

/// Links, addresses, routes, rules and settings of the namespace that plays this machine.
fn machine(space: &NetNamespace) -> Vec<String> {
    ["ip address", "ip route show table all", "ip neighbour", "nft list ruleset", "sysctl -a --pattern ^net\\."]
        .map(|line| {
            // Counters and times are not settings.
            let text = space.command(line);
            text.lines()
                .filter(|line| !line.contains("nf_conntrack_count") && !line.contains("expires"))
                .collect::<Vec<_>>()
                .join("\n")
        })
        .to_vec()
}

#[test]
fn the_machine_itself_stays_as_it_is() {
    if !banger_testkit::require("netns") {
        return;
    }
    let host = NetNamespace::new();
    host.commands(
        "ip link set lo up
         ip link add eth9 type bridge
         ip address add 192.0.2.7/24 dev eth9
         ip link set eth9 up
         ip route add default via 192.0.2.1
         nft add table inet mine",
    );
    let before = machine(&host);
    let (mut holder, mut helper) = host.run(|| {
        let holder = hold(None);
        let helper = Helper::start(&holder);
        (holder, helper)
    });
    helper.done(&ensure(0));
    for number in 0..3 {
        helper.done(&attach(number, 0, policy(Base::Internet, &[], &[])));
    }
    assert_eq!(machine(&host), before, "while VMs are attached");
    helper.process.kill();
    holder.kill();
    assert_eq!(machine(&host), before, "afterwards");
}
