//! A holder, a helper, and servers for everything a guest might want to reach.
//!
//! ```text
//!  outside ── veth ── up0 │ namespace of the holder │ bridges, taps ── guests
//!  9.9.9.9 "the internet"   192.168.77.1 "the LAN"   169.254.169.254 "metadata"   5.5.5.5 "this host, in public"
//! ```

use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, Attachment, Base, Filter, Policy, Request, Status, To},
    name::VmId,
};
use banger_testkit::{Launcher, NetNamespace};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
};

pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 5);
/// Ports of all servers in `outside`.
pub(crate) const PORTS: [u16; 2] = [80, 5432];

pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_bangerd-root");

/// Process of the helper's program; ends with the test.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn start_time(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().to_owned()
    }

    fn arguments(&self) -> [String; 2] {
        [self.pid().to_string(), self.start_time()]
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Command for the helper's program, as this process's user or an ordinary one.
fn program(user: Option<&User>) -> Command {
    let mut words = user.map(|user| user.launcher.prefix()).unwrap_or_default();
    words.push(user.map_or(HELPER.into(), |user| user.program.clone().into()));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Unnamed user with a copy of the program and a tap device.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    launcher: Launcher,
    program: std::path::PathBuf,
    dir: std::path::PathBuf,
}

impl User {
    pub(crate) fn new(uid: u32) -> Self {
        let dir = std::env::temp_dir().join(format!("banger-user-{}-{uid}", std::process::id()));
        std::fs::create_dir_all(dir.join("tap")).unwrap();
        let program = dir.join("bangerd-root");
        std::fs::copy(HELPER, &program).unwrap();
        Self { uid, launcher: Launcher::user(uid, Some(&dir.join("tap"))), program, dir }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Starts a holder, of new namespaces or of a member's.
pub(crate) fn hold(member: Option<&Process>) -> Process {
    hold_as(None, member)
}

pub(crate) fn hold_as(user: Option<&User>, member: Option<&Process>) -> Process {
    let mut command = program(user);
    command.arg("hold").args(member.map(Process::arguments).into_iter().flatten());
    let mut child = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut ready = [0; 6];
    child.0.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    child.0.stdin.take().unwrap().write_all(b"go").unwrap();
    child
}

/// Helper and the connection to it.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) process: Process,
    pub(crate) stream: UnixStream,
}

impl Helper {
    pub(crate) fn start(member: &Process) -> Self {
        Self::start_as(None, member)
    }

    pub(crate) fn start_as(user: Option<&User>, member: &Process) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let mut command = program(user);
        command.arg("serve").args(member.arguments()).stdin(OwnedFd::from(theirs));
        Self { process: Process(command.spawn().unwrap()), stream }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Answer {
        self.stream.write_all(&framing::encode(request).unwrap()).unwrap();
        let mut header = [0; HEADER];
        // Attached descriptors are closed by the kernel, because nobody receives them.
        self.stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; framing::body_length(header).unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        framing::decode(&body).unwrap()
    }

    #[track_caller]
    pub(crate) fn done(&mut self, request: &Request) {
        let answer = self.ask(request);
        assert!(matches!(answer, Answer::Done | Answer::Resolver), "{request:?}: {answer:?}");
    }

    #[track_caller]
    pub(crate) fn status(&mut self) -> Status {
        match self.ask(&Request::Status { of: None }) {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }
}

/// The whole test environment.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) holder: Process,
    pub(crate) helper: Helper,
    /// Namespace of the holder.
    pub(crate) inside: NetNamespace,
    /// Namespace with the internet, the LAN and everything else that is not banger's.
    pub(crate) outside: NetNamespace,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(None)
    }

    /// Environment of an ordinary user.
    pub(crate) fn of(user: Option<&User>) -> Self {
        let holder = hold_as(user, None);
        let (helper, inside, outside) =
            (Helper::start_as(user, &holder), NetNamespace::of(holder.pid()), NetNamespace::new());
        // A veth is made in one namespace and moved to the other by the pid of a process there.
        outside.command(&format!("ip link add out0 type veth peer name up0 netns {}", holder.pid()));
        outside.commands(&format!(
            "ip address add 172.30.0.1/24 dev out0
             ip address add {INTERNET}/32 dev lo
             ip address add {LAN}/32 dev lo
             ip address add {METADATA}/32 dev lo
             ip address add {HOST}/32 dev lo
             ip link set lo up
             ip link set out0 up"
        ));
        inside.commands(
            "ip address add 172.30.0.2/24 dev up0
             ip link set up0 up
             ip route add default via 172.30.0.1",
        );
        for port in PORTS {
            outside.start(move || serve(&TcpListener::bind(("0.0.0.0", port)).unwrap()));
        }
        let mut world = Self { holder, helper, inside, outside };
        world.helper.done(&ensure(0));
        world
    }

    /// Kills the helper and starts another without its state.
    pub(crate) fn replace_helper(&mut self) {
        self.helper.process.kill();
        self.helper = Helper::start(&self.holder);
        self.helper.done(&ensure(0));
    }

    /// Objects of VMs left in the kernel: taps, chains, sets and elements.
    pub(crate) fn traces(&self) -> Vec<String> {
        let links = self.inside.command("ip -o link");
        let rules = self.inside.command("nft list ruleset");
        let is_trace =
            |line: &&str| line.contains("bt0") || line.contains("vm_") || line.contains("la_") || line.contains("lp_");
        links.lines().chain(rules.lines()).filter(is_trace).map(str::to_owned).collect()
    }
}

/// Says hello to every client, forever.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        // The client may be gone.
        let _ = stream.and_then(|mut stream| stream.write_all(b"hello"));
    }
}

pub(crate) fn ensure(network: u8) -> Request {
    Request::EnsureNetwork { block: "10.213.0.0/16".parse().unwrap(), network, host: vec![HOST] }
}

pub(crate) fn vm(number: u16) -> VmId {
    format!("{number:012x}").parse().unwrap()
}

pub(crate) fn policy(base: Base, deny: &[&str], allow: &[&str]) -> Policy {
    let filters = |texts: &[&str]| {
        let filter = |text: &&str| {
            let (to, port) = text.split_once(':').map_or((*text, None), |(to, port)| (to, Some(port.parse().unwrap())));
            let to = if to == "learned" { To::Learned } else { To::Block(to.parse().unwrap()) };
            Filter { to, port }
        };
        texts.iter().map(filter).collect()
    };
    Policy { base, deny: filters(deny), allow: filters(allow) }
}

pub(crate) fn attach(number: u16, network: u8, policy: Policy) -> Request {
    Request::AttachVm(Attachment { vm: vm(number), network, host: number + 2, policy })
}
