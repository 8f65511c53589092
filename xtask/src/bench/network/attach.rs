//! Attaching a VM to its network.

use crate::bench::compare::{Report, Target};
use anyhow::{Context, Result, ensure};
use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, Attachment, Base, Filter, Policy, Request, To},
};
use banger_testkit::{NetNamespace, bin_dir};
use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// VMs that are there already in the crowded world.
const CROWD: u16 = 100;

/// A helper in namespaces of its own, and VMs that come one after the other.
struct World {
    holder: Child,
    helper: Child,
    stream: UnixStream,
    inside: NetNamespace,
    policy: Policy,
    next: u16,
}

/// What VMs are allowed that have no rules.
const PLAIN: Policy = Policy { base: Base::Internet, deny: Vec::new(), allow: Vec::new() };

/// A closed range and an open port, as somebody's `--deny` and `--allow` come to.
fn rules() -> Result<Policy> {
    let filter = |range: &str, port| anyhow::Ok(Filter { to: To::Block(range.parse()?), port });
    Ok(Policy {
        base: Base::Internet,
        deny: vec![filter("198.51.100.0/24", None)?],
        allow: vec![filter("10.9.0.7/32", Some(443))?],
    })
}

impl World {
    fn new(vms: u16, policy: Policy) -> Result<Self> {
        let program = bin_dir().join("bangerd-root");
        let mut holder = Command::new(&program).arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut ready = [0; 6];
        holder.stdout.as_mut().context("stdout")?.read_exact(&mut ready)?;
        holder.stdin.take().context("stdin")?.write_all(b"go")?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", holder.id()))?;
        let started =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)).context("stat")?;
        let (stream, theirs) = UnixStream::pair()?;
        let helper = Command::new(&program)
            .args(["serve", &holder.id().to_string(), started])
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        let inside = NetNamespace::of(holder.id());
        let mut world = Self { holder, helper, stream, inside, policy, next: 0 };
        world.ask(&Request::EnsureNetwork { block: "10.213.0.0/16".parse()?, network: 0, host: Vec::new() })?;
        for _ in 0..vms {
            world.attach()?;
        }
        Ok(world)
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        self.stream.write_all(&framing::encode(request)?)?;
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let mut body = vec![0; framing::body_length(header)?];
        self.stream.read_exact(&mut body)?;
        let answer: Answer = framing::decode(&body)?;
        ensure!(!matches!(answer, Answer::Failed { .. }), "{answer:?}");
        Ok(())
    }

    /// One more VM; how long it took.
    fn attach(&mut self) -> Result<Duration> {
        let number = self.next;
        self.next += 1;
        let policy = self.policy.clone();
        let vm = format!("{number:012x}").parse()?;
        let request = Request::AttachVm(Attachment { vm, network: 0, host: number + 2, policy });
        let began = Instant::now();
        self.ask(&request)?;
        Ok(began.elapsed())
    }

    /// What makes one more by hand.
    fn hand(&mut self) -> Hand {
        let number = self.next;
        self.next += 1;
        let (tap, address) = (format!("hand{number}"), format!("10.213.{}.{}", 1 + number / 200, 2 + number % 200));
        let mac = format!("02:62:00:00:{:02x}:{:02x}", number / 256, number % 256);
        let rules = format!(
            "add element inet banger_0 vms {{ {address} : goto internet }}\n\
             add element bridge banger_0 taps {{ \"{tap}\" }}\n\
             add element bridge banger_0 owners {{ \"{tap}\" . {mac} . {address} }}\n"
        );
        Hand { tap, mac, rules }
    }

    /// The same by hand, a program for each step.
    fn step_by_step(&mut self) -> Result<Duration> {
        let Hand { tap, mac, rules } = self.hand();
        self.inside.run(move || {
            let began = Instant::now();
            for line in [
                format!("ip tuntap add {tap} mode tap vnet_hdr"),
                format!("ip link set {tap} master bb0n0"),
                format!("bridge link set dev {tap} isolated on learning off flood off"),
                format!("bridge fdb replace {mac} dev {tap} master static"),
            ] {
                program(&line, "")?;
            }
            program("nft -f -", &rules)?;
            program(&format!("ip link set {tap} up"), "")?;
            Ok(began.elapsed())
        })
    }

    /// The same by hand with as few programs as it takes: one `ip` and one `nft`. The bridge's fixed entry, which
    /// neither can make, is left out.
    fn two_programs(&mut self) -> Result<Duration> {
        let Hand { tap, rules, .. } = self.hand();
        let links = format!(
            "tuntap add {tap} mode tap vnet_hdr\n\
             link set {tap} master bb0n0\n\
             link set {tap} type bridge_slave isolated on learning off flood off\n\
             link set {tap} up\n"
        );
        self.inside.run(move || {
            let began = Instant::now();
            program("ip -batch -", &links)?;
            program("nft -f -", &rules)?;
            Ok(began.elapsed())
        })
    }
}

/// One VM's card, as somebody makes it by hand.
struct Hand {
    tap: String,
    mac: String,
    rules: String,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.helper, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs one, with this to read.
fn program(line: &str, input: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut child = Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    ensure!(child.wait()?.success(), "{line}");
    Ok(())
}

type ByHand = fn(&mut World) -> Result<Duration>;

/// Attaching a VM, against the same by hand and against itself in a crowd.
pub(crate) fn attach(rounds: u32, report: &mut Report) -> Result<()> {
    let by_hand: [(_, ByHand); 2] = [
        (("attach a VM", "ip, bridge and nft by hand"), World::step_by_step),
        (("attach one VM more", "one ip and one nft by hand"), World::two_programs),
    ];
    for (what, by_hand) in by_hand {
        let (mut ours, mut theirs) = (World::new(1, PLAIN)?, World::new(1, PLAIN)?);
        report.compare(what, Target::Ratio(0.2), rounds * 3, || ours.attach(), || by_hand(&mut theirs))?;
    }
    for (kind, policy) in [("", PLAIN), (" with rules", rules()?)] {
        let (mut crowded, mut empty) = (World::new(CROWD, policy.clone())?, World::new(1, policy)?);
        report.compare(
            (&format!("attach{kind} beside {CROWD} VMs"), &format!("attach{kind} beside one")),
            Target::Ratio(1.3),
            rounds,
            || crowded.attach(),
            || empty.attach(),
        )?;
    }
    Ok(())
}
