//! System mode: the units, and the helper in a namespace used by others too.

use crate::{
    guest::{Guest, SOON},
    world::{HELPER, INTERNET, LAN, Process, attach, policy, vm},
};
use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, Base, Request, Status},
};
use banger_testkit::{NetNamespace, require, wait_until};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

/// The worst exposure `systemd-analyze security` may find, in tenths: 2.5 of 10.
const EXPOSURE: &str = "25";

/// Block the administrator of these machines reserves for VMs.
const POOL: &str = "10.192.0.0/11";

#[test]
fn the_units_are_sound_and_expose_little() {
    if !require("systemd") {
        return;
    }
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/systemd");
    let temp = std::env::temp_dir().join(format!("banger-units-{}", std::process::id()));
    std::fs::create_dir_all(&temp).unwrap();
    let bin_dir = Path::new(HELPER).parent().unwrap().to_str().unwrap();
    let units = ["bangerd-root.socket", "bangerd-root.service"].map(|name| {
        let text = std::fs::read_to_string(templates.join(name)).unwrap().replace("@BINDIR@", bin_dir);
        let path = temp.join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let verified =
        Command::new("systemd-analyze").args(["verify", "--recursive-errors=no"]).args(&units).output().unwrap();
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && words.is_empty(), "{words}");
    let exposed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", &format!("--threshold={EXPOSURE}")])
        .arg(&units[1])
        .output()
        .unwrap();
    assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
    std::fs::remove_dir_all(&temp).unwrap();
}

pub(crate) fn ask(stream: &mut UnixStream, request: &Request) -> Answer {
    stream.write_all(&framing::encode(request).unwrap()).unwrap();
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; framing::body_length(header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    framing::decode(&body).unwrap()
}

/// Namespace that plays a machine, with the helper behind a socket as systemd would start it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) space: NetNamespace,
    socket: PathBuf,
    _activated: Process,
}

/// Environment of the service, as its unit defines it: an ordinary unnamed user, two capabilities and no way to more;
/// and a tap device that everybody may open, in a mount namespace of its own.
const UNIT: &str = "set -e
mount -t tmpfs -o mode=755,size=64k none /mnt
mknod -m 666 /mnt/tun c 10 200
mount --bind /mnt/tun /dev/net/tun
exec setpriv --reuid=64999 --regid=64999 --clear-groups --no-new-privs \
  --bounding-set=-all,+net_admin,+net_bind_service --inh-caps=-all,+net_admin,+net_bind_service \
  --ambient-caps=-all,+net_admin,+net_bind_service -- \"$@\"";

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let space = NetNamespace::new();
        space.command("ip link set lo up");
        let socket = std::env::temp_dir().join(format!("banger-root-{name}-{}.sock", std::process::id()));
        let listen = socket.to_str().unwrap().to_owned();
        let activated = space.run(move || {
            let way = ["--mount", "--propagation=private", "--", "sh", "-c", UNIT, "sh", "systemd-socket-activate"];
            let helper = ["-l", &listen, HELPER, "system", POOL];
            Process(Command::new("unshare").args(way).args(helper).spawn().unwrap())
        });
        Self { space, socket, _activated: activated }
    }

    pub(crate) fn connect(&self) -> UnixStream {
        wait_until(SOON, "the socket", || UnixStream::connect(&self.socket).map_err(|error| error.to_string()))
    }

    /// Connects as another user.
    pub(crate) fn connect_as(&self, uid: u32) -> UnixStream {
        drop(self.connect());
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        let socket = self.socket.clone();
        let connecting = std::thread::spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            // Of this thread alone: the kernel records the credentials at connect.
            rustix::thread::set_thread_uid(uid).unwrap();
            UnixStream::connect(socket).unwrap()
        });
        connecting.join().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

const MACHINE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);

/// Server that says hello on port 80 of an address.
fn serve(space: &NetNamespace, at: Ipv4Addr) {
    let listener = space.run(move || TcpListener::bind((at, 80)).unwrap());
    std::thread::spawn(move || listener.incoming().flatten().try_for_each(|mut stream| stream.write_all(b"hello")));
}

fn hears(space: &NetNamespace, to: Ipv4Addr) {
    let said = space.run(move || {
        let mut stream = TcpStream::connect_timeout(&(to, 80).into(), SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    assert_eq!(said, "hello", "{to}");
}

/// Asserts that the other side closed the connection.
fn hung_up(stream: &mut UnixStream) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn status(stream: &mut UnixStream) -> Status {
    match ask(stream, &Request::Status { of: None }) {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn on_a_machine_with_others_only_guests_are_ruled() {
    if !require("netns") || !require("systemd") || !require("root") {
        return;
    }
    let machine = Machine::new("others");
    let outside = NetNamespace::new();
    outside.commands(&format!(
        "ip link add out0 type veth peer name eth0 netns {}
         ip address add 172.30.0.1/24 dev out0
         ip address add {INTERNET}/32 dev lo
         ip address add {LAN}/32 dev lo
         ip link set lo up
         ip link set out0 up",
        machine.space.path()
    ));
    // The machine forwards packets and has somebody else's rules.
    machine.space.commands(&format!(
        "ip address add {MACHINE}/24 dev eth0
         ip link set eth0 up
         ip route add default via 172.30.0.1
         sysctl -q -w net.ipv4.ip_forward=1
         nft add table inet mine
         nft add chain inet mine input {{ type filter hook input priority 0 ; policy accept ; }}"
    ));
    for at in [INTERNET, LAN] {
        serve(&outside, at);
    }
    serve(&machine.space, MACHINE);
    let others = machine.space.command("nft list table inet mine");
    let mut stream = machine.connect();
    for request in [crate::world::ensure(0), attach(0, 0, policy(Base::Internet, &[], &[]))] {
        let answer = ask(&mut stream, &request);
        assert!(matches!(answer, Answer::Done | Answer::Resolver), "{request:?}: {answer:?}");
    }
    let rules = machine.space.command("nft list table inet banger_0");
    for hook in ["forward", "input", "output"] {
        assert!(rules.contains(&format!("hook {hook} priority filter; policy accept;")), "{rules}");
    }
    // Traffic of others is unaffected by what is closed to guests.
    for to in [INTERNET, LAN, MACHINE] {
        hears(&machine.space, to);
    }
    hears(&outside, MACHINE);
    // A guest is restricted.
    let guest = Guest::at(&machine.space, 0, 0);
    guest.reaches(INTERNET, 80);
    // Another connection of the same user continues with the first one's state.
    let mut second = machine.connect();
    assert_eq!(status(&mut second).vms, [vm(0)]);
    for to in [LAN, MACHINE] {
        let trying = guest.space.start(move || TcpStream::connect_timeout(&(to, 80).into(), SOON).is_ok());
        wait_until(SOON, &format!("a denial of {to}"), || {
            assert!(!trying.is_finished(), "{to} was reached, or never tried");
            let denials = status(&mut second).denials;
            let found = denials.iter().any(|denial| (denial.from, denial.to) == (guest.address, to));
            if found { Ok(()) } else { Err(format!("{denials:?}")) }
        });
    }
    // An invalid frame ends only its connection.
    stream.write_all(b"\xff\xff\xff\xff").unwrap();
    hung_up(&mut stream);
    assert_eq!(ask(&mut second, &Request::Reconcile { vms: Vec::new() }), Answer::Done);
    assert_eq!(machine.space.command("nft list ruleset"), others);
    assert!(!machine.space.command("ip -o link").contains("bb0"));
    hears(&outside, MACHINE);
}

/// A user chooses the VMs' block and must not be able to take other hosts' addresses.
#[test]
fn no_user_takes_an_address_that_somebody_has() {
    if !require("netns") || !require("systemd") || !require("root") {
        return;
    }
    let machine = Machine::new("blocks");
    machine.space.commands(
        "ip link add eth0 type bridge
         ip address add 10.200.7.2/24 dev eth0
         ip link set eth0 up
         ip route add default via 10.200.7.1
         ip route add 10.201.0.0/24 via 10.200.7.9
         ip route add blackhole 10.202.128.0/17
         ip route add 128.0.0.0/1 via 10.200.7.1
         ip link add lan type bridge
         ip address add 10.203.255.254/32 dev lan",
    );
    let rules_and_links = || machine.space.command("nft list ruleset") + &machine.space.command("ip -o link");
    let before = rules_and_links();
    let mut user = machine.connect_as(54_321);
    let ensure = |block: &str, network| Request::EnsureNetwork { block: block.parse().unwrap(), network, host: vec![] };
    for (block, words) in [
        // The router and other hosts on the link, a resolver behind the router, a closed block, an own address.
        ("10.200.0.0/16", "somebody else's"),
        ("10.201.0.0/16", "somebody else's"),
        ("10.202.0.0/16", "somebody else's"),
        ("10.203.0.0/16", "somebody else's"),
        // Destinations behind the machine's router, which are not the administrator's to give.
        ("10.8.0.0/16", "cut from 10.192.0.0/11"),
        ("192.168.0.0/16", "cut from 10.192.0.0/11"),
    ] {
        let answer = ask(&mut user, &ensure(block, 0));
        assert!(matches!(&answer, Answer::Failed { reason } if reason.contains(words)), "{block}: {answer:?}");
    }
    assert_eq!(rules_and_links(), before);
    assert!(matches!(ask(&mut user, &ensure("10.213.0.0/16", 0)), Answer::Done | Answer::Resolver));
    // The user's own bridges do not matter; a new route does.
    assert!(matches!(ask(&mut user, &ensure("10.213.0.0/16", 1)), Answer::Done | Answer::Resolver));
    machine.space.command("ip route add 10.213.64.0/24 dev eth0");
    assert!(matches!(ask(&mut user, &ensure("10.213.0.0/16", 1)), Answer::Done | Answer::Resolver));
    let answer = ask(&mut user, &ensure("10.213.0.0/16", 2));
    assert!(matches!(&answer, Answer::Failed { reason } if reason.contains("10.213.64.0/24")), "{answer:?}");
    // A user who reconnects still has the same block, known only from the kernel.
    drop(user);
    let mut user = machine.connect_as(54_321);
    for block in ["10.203.0.0/16", "10.214.0.0/16"] {
        let answer = ask(&mut user, &ensure(block, 0));
        assert!(
            matches!(&answer, Answer::Failed { reason } if reason.contains("another block")),
            "{block}: {answer:?}"
        );
    }
    assert!(matches!(ask(&mut user, &ensure("10.213.0.0/16", 1)), Answer::Done | Answer::Resolver));
    assert!(!machine.space.command("ip -4 address").contains("10.214."));
}

/// Neither many connections of one user nor those of many users keep others out, and nobody has to wait.
#[test]
fn nobody_keeps_others_out() {
    if !require("netns") || !require("systemd") || !require("root") {
        return;
    }
    let machine = Machine::new("fair");
    // As many as one user may have, each stopped in the middle of a request.
    let mut half: Vec<_> = (0..8).map(|_| machine.connect_as(54_321)).collect();
    for stream in &mut half {
        stream.write_all(b"\0\0").unwrap();
    }
    hung_up(&mut machine.connect_as(54_321));
    let mut other = machine.connect_as(54_322);
    assert_eq!(status(&mut other).vms, []);
    // They time out, and then there is room.
    half.iter_mut().for_each(hung_up);
    let mut again = wait_until(SOON, "room for another one", || {
        let mut stream = machine.connect_as(54_321);
        stream.write_all(&framing::encode(&Request::Status { of: None }).unwrap()).unwrap();
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).map_err(|error| error.to_string())?;
        let mut body = vec![0; framing::body_length(header).unwrap()];
        stream.read_exact(&mut body).unwrap();
        Ok::<_, String>(stream)
    });
    drop(half);
    // More users than there is room for, all silent: the one silent longest is closed.
    let crowd: Vec<_> = (0..200).map(|number| machine.connect_as(60_000 + number)).collect();
    assert_eq!(status(&mut machine.connect_as(54_323)).vms, []);
    hung_up(&mut again);
    drop(crowd);
    assert_eq!(status(&mut machine.connect_as(54_321)).vms, []);
}
