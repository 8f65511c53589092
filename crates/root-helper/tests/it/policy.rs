//! A guest reaches exactly what its policy says: before and after a change, and after the helper was killed.

use crate::{
    guest::{Guest, SOON},
    spoof,
    world::{HOST, INTERNET, LAN, METADATA, World, attach, policy, vm},
};
use banger_proto::helper::{Answer, Attachment, Base, MAX_LEARNED, Policy, Request};
use banger_testkit::wait_until;
use std::net::{Ipv4Addr, UdpSocket};

/// Address of another VM, on another network, through the gateway.
const PEER: Ipv4Addr = Ipv4Addr::new(10, 213, 8, 3);

const DESTINATIONS: [(&str, Ipv4Addr, u16); 8] = [
    ("internet", INTERNET, 80),
    ("internet, another port", INTERNET, 5432),
    ("lan", LAN, 80),
    ("lan, another port", LAN, 5432),
    ("metadata", METADATA, 80),
    ("host", HOST, 80),
    ("gateway", Ipv4Addr::new(10, 213, 0, 1), 80),
    ("another VM", PEER, 80),
];

/// Policies, and which of the destinations each opens.
fn policies() -> Vec<(&'static str, Policy, [bool; 8])> {
    use Base::{Internet, Nothing};
    let open = |open: [bool; 6]| [open[0], open[1], open[2], open[3], open[4], open[5], false, false];
    vec![
        ("default", policy(Internet, &[], &[]), open([true, true, false, false, false, false])),
        ("nothing", policy(Nothing, &[], &[]), open([false; 6])),
        ("lan service", policy(Internet, &[], &["192.168.77.1:5432"]), open([true, true, false, true, false, false])),
        ("only lan", policy(Nothing, &[], &["192.168.0.0/16"]), open([false, false, true, true, false, false])),
        (
            "deny wins",
            policy(Internet, &["9.9.9.0/24:80"], &["9.9.9.9", "192.168.77.1:80"]),
            open([false, true, true, false, false, false]),
        ),
        (
            "everything",
            policy(Nothing, &["169.254.0.0/16"], &["0.0.0.0/0"]),
            open([true, true, true, true, false, true]),
        ),
        ("default again", policy(Internet, &[], &[]), open([true, true, false, false, false, false])),
    ]
}

fn check(world: &mut World, guest: &Guest, name: &str, open: [bool; 8]) {
    for ((what, to, port), open) in DESTINATIONS.into_iter().zip(open) {
        eprintln!("{name}: {what} is to be {}", if open { "open" } else { "closed" });
        if open {
            guest.reaches(to, port);
        } else {
            guest.is_denied(world, to, port);
        }
    }
}

/// All destinations and policies, before and after a change, without a helper, and with a new one.
#[test]
fn a_guest_reaches_what_its_policy_says_and_nothing_else() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&crate::world::ensure(2));
    world.helper.done(&attach(1, 2, policy(Base::Internet, &[], &[])));
    let policies = policies();
    world.helper.done(&attach(0, 0, policies[0].1.clone()));
    let (guest, peer) = (Guest::new(&world, 0, 0), Guest::new(&world, 1, 2));
    assert_eq!(peer.address, PEER);
    let server = peer.space.start(|| std::net::TcpListener::bind(("0.0.0.0", 80)).unwrap());
    let _listens = server.join().unwrap();
    for (name, policy, open) in policies {
        // The same NIC, another policy, one transaction.
        world.helper.done(&attach(0, 0, policy.clone()));
        check(&mut world, &guest, name, open);
        world.helper.process.kill();
        for ((what, to, port), open) in DESTINATIONS.into_iter().zip(open).filter(|(_, open)| *open) {
            eprintln!("{name}, without a helper: {what} is to be {open}");
            guest.reaches(to, port);
        }
        world.replace_helper();
        check(&mut world, &guest, &format!("{name}, another helper"), open);
        world.helper.done(&attach(0, 0, policy));
        check(&mut world, &guest, &format!("{name}, attached again"), open);
    }
    let denied = world.helper.status().denied;
    assert!(denied.iter().any(|(from, packets)| *from == guest.address && *packets > 0), "{denied:?}");
}

/// No packet passes while a policy is being replaced: what is closed before and after stays closed, and what is open
/// stays open. (When one own chain replaces another, a packet that meets the new chain while it is empty is dropped.)
#[test]
fn a_policy_is_another_one_at_once() {
    const CHANGES: usize = 100;
    const PORT: u16 = 7001;
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    let policies =
        ["10.50.0.0/16", "10.51.0.0/16:443"].map(|rule| policy(Base::Internet, &["198.51.100.0/24"], &[rule]));
    world.helper.done(&attach(0, 0, policies[0].clone()));
    let guest = Guest::new(&world, 0, 0);
    let [open, closed] = [INTERNET, LAN].map(|at| world.outside.run(move || UdpSocket::bind((at, PORT)).unwrap()));
    std::thread::spawn(move || {
        let mut bytes = [0; 8];
        while let Ok((length, from)) = open.recv_from(&mut bytes) {
            open.send_to(&bytes[..length], from).unwrap();
        }
    });
    let sender = guest.space.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    sender.set_read_timeout(Some(SOON)).unwrap();
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for change in 0..CHANGES {
                world.helper.done(&attach(0, 0, policies[change % 2].clone()));
            }
        });
        let mut number = 0_u64;
        while !changing.is_finished() || number == 0 {
            number += 1;
            for to in [LAN, INTERNET] {
                sender.send_to(&number.to_be_bytes(), (to, PORT)).unwrap();
            }
            // One at a time, so that a lost packet was dropped by a rule.
            let mut back = [0; 8];
            sender.recv_from(&mut back).expect("what is open is open all the time");
            assert_eq!(u64::from_be_bytes(back), number);
        }
    });
    // Anything earlier than the last returned packet would have arrived by now.
    closed.set_nonblocking(true).unwrap();
    assert_eq!(closed.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // It would have arrived if it had been allowed.
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &["192.168.77.1"])));
    sender.send_to(b"x", (LAN, PORT)).unwrap();
    closed.set_nonblocking(false).unwrap();
    closed.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(closed.recv(&mut [0; 8]).unwrap(), 1);
}

#[test]
fn a_vm_that_learnt_all_it_may_learns_no_more_and_keeps_what_it_has() {
    const ROOM: u32 = 4096;
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&attach(0, 0, policy(Base::Nothing, &[], &["learned:80", "learned"])));
    let guest = Guest::new(&world, 0, 0);
    let learn = |rule, addresses: &[Ipv4Addr]| Request::LearnAddresses {
        vm: vm(0),
        rule,
        addresses: addresses.to_vec(),
        ttl: 3600,
    };
    let many: Vec<Ipv4Addr> = (1..=ROOM).map(|n| Ipv4Addr::from(u32::from(INTERNET) - n)).collect();
    for rule in [0, 1] {
        for some in many.chunks(MAX_LEARNED) {
            world.helper.done(&learn(rule, some));
        }
        let full = world.helper.ask(&learn(rule, &[INTERNET]));
        assert!(matches!(full, Answer::Failed { .. }), "{full:?}");
        guest.is_denied(&mut world, INTERNET, 80);
        // A request with one address too many is refused as a whole; a valid one starts the timeouts again.
        let known = learn(rule, &many[..MAX_LEARNED]);
        world.helper.done(&known);
        let mixed = world.helper.ask(&learn(rule, &[many[0], INTERNET]));
        assert!(matches!(mixed, Answer::Failed { .. }), "{mixed:?}");
        guest.is_denied(&mut world, INTERNET, 80);
        world.helper.done(&known);
    }
}

#[test]
fn a_change_cuts_what_was_connected() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
    let guest = Guest::new(&world, 0, 0);
    let outside = world.outside.start(|| {
        use std::io::Read;
        let listener = std::net::TcpListener::bind((INTERNET, 7000)).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let mut got = Vec::new();
        stream.set_read_timeout(Some(crate::guest::SOON)).unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|count| count == 1) {
            got.push(byte[0]);
            if byte == *b"." {
                break;
            }
        }
        got
    });
    let mut stream = guest.space.run(|| {
        banger_testkit::wait_until(crate::guest::SOON, "the server to listen", || {
            std::net::TcpStream::connect((INTERNET, 7000)).map_err(|error| error.to_string())
        })
    });
    std::io::Write::write_all(&mut stream, b"a").unwrap();
    world.helper.done(&attach(0, 0, policy(Base::Nothing, &[], &[])));
    std::io::Write::write_all(&mut stream, b"b").unwrap();
    banger_testkit::wait_until(crate::guest::SOON, "the connection's packets to be denied", || {
        let denied = world.helper.status().denials;
        denied.iter().any(|denial| denial.port == 7000).then_some(()).ok_or_else(|| format!("{denied:?}"))
    });
    world.helper.done(&attach(0, 0, policy(Base::Internet, &[], &[])));
    std::io::Write::write_all(&mut stream, b".").unwrap();
    assert_eq!(outside.join().unwrap(), b"ab.");
}

#[test]
fn names_open_addresses_for_the_vm_that_asked_and_never_private_ones() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    let learns = policy(Base::Nothing, &[], &["learned:80", "learned"]);
    for number in [0, 1] {
        world.helper.done(&attach(number, 0, learns.clone()));
    }
    let (guest, other) = (Guest::new(&world, 0, 0), Guest::new(&world, 1, 0));
    guest.is_denied(&mut world, INTERNET, 80);
    let learn = |rule, addresses: &[Ipv4Addr]| Request::LearnAddresses {
        vm: vm(0),
        rule,
        addresses: addresses.to_vec(),
        ttl: 3600,
    };
    world.helper.done(&learn(0, &[INTERNET, LAN, METADATA, HOST]));
    guest.reaches(INTERNET, 80);
    for (to, port) in [(INTERNET, 5432), (LAN, 80), (METADATA, 80), (HOST, 80)] {
        guest.is_denied(&mut world, to, port);
    }
    other.is_denied(&mut world, INTERNET, 80);
    // An answer valid for a second: the kernel closes the address by itself.
    let briefly = Request::LearnAddresses { vm: vm(1), rule: 0, addresses: vec![INTERNET], ttl: 1 };
    world.helper.done(&briefly);
    other.reaches(INTERNET, 80);
    wait_until(SOON, "the end of a short answer", || {
        let set = world.inside.command("nft list set inet banger_0 lp_000000000001");
        if set.contains("9.9.9.9") { Err(set) } else { Ok(()) }
    });
    other.is_denied(&mut world, INTERNET, 80);
    guest.reaches(INTERNET, 80);
    world.helper.done(&learn(1, &[INTERNET]));
    world.helper.done(&learn(1, &[INTERNET]));
    guest.reaches(INTERNET, 5432);
    // A learned address becomes the host's own: it is closed at once, and open again when it no longer is.
    let hosts = |addresses: &[Ipv4Addr]| Request::EnsureNetwork {
        block: "10.213.0.0/16".parse().unwrap(),
        network: 0,
        host: addresses.to_vec(),
    };
    world.helper.done(&hosts(&[HOST, INTERNET]));
    for port in [80, 5432] {
        guest.is_denied(&mut world, INTERNET, port);
    }
    world.helper.done(&hosts(&[HOST]));
    guest.reaches(INTERNET, 80);
    // With the same rules a new helper keeps learned addresses; with other rules it does not.
    world.replace_helper();
    world.helper.done(&attach(0, 0, learns));
    guest.reaches(INTERNET, 80);
    world.helper.done(&attach(0, 0, policy(Base::Nothing, &[], &["learned:80", "learned", "10.0.0.0/8"])));
    guest.is_denied(&mut world, INTERNET, 80);
    for wrong in [
        Request::LearnAddresses { vm: vm(7), rule: 0, addresses: vec![INTERNET], ttl: 1 },
        Request::LearnAddresses { vm: vm(0), rule: 2, addresses: vec![INTERNET], ttl: 1 },
    ] {
        assert!(matches!(world.helper.ask(&wrong), banger_proto::helper::Answer::Failed { .. }), "{wrong:?}");
    }
}

#[test]
fn what_was_denied_is_remembered_for_each_vm_and_with_it_forgotten() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    for number in [0, 1] {
        world.helper.done(&attach(number, 0, policy(Base::Internet, &[], &[])));
    }
    let (noisy, quiet) = (Guest::new(&world, 0, 0), Guest::new(&world, 1, 0));
    // It first exchanges a packet with its gateway.
    noisy.reaches(INTERNET, 80);
    let router = banger_root_helper::names::mac(Ipv4Addr::new(10, 213, 0, 1)).0;
    let flood: u16 = 2000;
    for number in 0..flood {
        let [high, low] = number.to_be_bytes();
        let packet = spoof::packet(noisy.address, Ipv4Addr::new(10, 99, high, low), 0);
        noisy.send(&spoof::frame(router, noisy.mac, spoof::IPV4, &packet));
    }
    let count = |world: &mut World, of: Ipv4Addr| {
        let denied = world.helper.status().denied;
        denied.iter().find(|(from, _)| *from == of).map_or(0, |(_, packets)| *packets)
    };
    wait_until(SOON, "all of it to be counted", || {
        let counted = count(&mut world, noisy.address);
        if counted >= u64::from(flood) { Ok(()) } else { Err(counted.to_string()) }
    });
    // All are counted and some recorded: there is room for others.
    let sizes = world.inside.command("nft -j list set inet banger_0 denials");
    let noted = sizes.matches("10.99.").count();
    assert!((256..usize::from(flood)).contains(&noted), "{noted}");
    quiet.is_denied(&mut world, LAN, 80);
    let of = |world: &mut World, number| match world.helper.ask(&Request::Status { of: Some(vm(number)) }) {
        Answer::Status(status) => status.denials,
        other => panic!("{other:?}"),
    };
    assert!(of(&mut world, 1).iter().any(|denial| (denial.from, denial.to) == (quiet.address, LAN)));
    assert!(of(&mut world, 0).iter().all(|denial| denial.from == noisy.address));
    assert_eq!(of(&mut world, 7), []);
    // The next VM at the address starts without denials.
    world.helper.done(&Request::DetachVm { vm: vm(0) });
    let policy = policy(Base::Internet, &[], &[]);
    world.helper.done(&Request::AttachVm(Attachment { vm: vm(8), network: 0, host: 2, policy }));
    assert_eq!((of(&mut world, 8), count(&mut world, noisy.address)), (Vec::new(), 0));
    let rules = world.inside.command("nft list ruleset");
    assert!(!rules.contains("10.99.") && rules.contains(&LAN.to_string()), "{rules}");
}

#[test]
fn guests_meet_on_a_named_network_only() {
    if !banger_testkit::require("netns") {
        return;
    }
    let mut world = World::new();
    world.helper.done(&crate::world::ensure(3));
    let open = policy(Base::Internet, &[], &["10.0.0.0/8"]);
    let mut guest = |number, network| {
        world.helper.done(&attach(number, network, open.clone()));
        Guest::new(&world, number, network)
    };
    let [a, b, c, d] = [guest(0, 0), guest(1, 0), guest(2, 3), guest(3, 3)];
    for server in [&b, &d] {
        server.space.start(|| {
            let listener = std::net::TcpListener::bind(("0.0.0.0", 80)).unwrap();
            for stream in listener.incoming() {
                let _ = std::io::Write::write_all(&mut stream.unwrap(), b"hello");
            }
        });
    }
    c.reaches(d.address, 80);
    // Another network, through the gateway: denied although the VM's own rules would allow it.
    a.is_denied(&mut world, d.address, 80);
    c.is_denied(&mut world, b.address, 80);
    // The same bridge: no frame passes, so ARP gets no answer and the kernel gives up.
    let to = std::net::SocketAddr::from((b.address, 80));
    let lonely = a.space.run(move || std::net::TcpStream::connect(to).map_err(|error| error.kind()));
    assert_eq!(lonely.unwrap_err(), std::io::ErrorKind::HostUnreachable);
}
