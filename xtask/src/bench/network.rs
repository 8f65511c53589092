//! What the network costs: attaching a VM, and a published port.

use super::compare::{Report, Target};
use anyhow::{Context, Result, ensure};
use banger_proto::{
    framing::{self, HEADER},
    helper::{Answer, Attachment, Base, Policy, Request},
};
use banger_testkit::{Space, TestEnv, bin_dir, wait_until};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// VMs that are there already in the crowded world.
const CROWD: u16 = 100;
/// Round trips of one latency sample.
const TRIPS: u32 = 200;
/// Bytes of one throughput sample.
const BULK: usize = 256 << 20;
/// How long a program may take to listen.
const SOON: Duration = Duration::from_secs(30);

/// A helper in namespaces of its own, and VMs that come one after the other.
struct World {
    holder: Child,
    helper: Child,
    stream: UnixStream,
    inside: Space,
    next: u16,
}

impl World {
    fn new(vms: u16) -> Result<Self> {
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
        let inside = Space::of(holder.id());
        let mut world = Self { holder, helper, stream, inside, next: 0 };
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
        let policy = Policy { base: Base::Internet, deny: Vec::new(), allow: Vec::new() };
        let vm = format!("{number:012x}").parse()?;
        let request = Request::AttachVm(Attachment { vm, network: 0, host: number + 2, policy });
        let began = Instant::now();
        self.ask(&request)?;
        Ok(began.elapsed())
    }

    /// The same by hand, as programs.
    fn by_hand(&mut self) -> Result<Duration> {
        let number = self.next;
        self.next += 1;
        let (tap, address) = (format!("hand{number}"), format!("10.213.{}.{}", 1 + number / 200, 2 + number % 200));
        let mac = format!("02:62:00:00:{:02x}:{:02x}", number / 256, number % 256);
        let rules = format!(
            "add chain inet banger_0 {tap}\nadd rule inet banger_0 {tap} goto internet\n\
             add element inet banger_0 vms {{ {address} : goto {tap} }}\n\
             add element bridge banger_0 taps {{ \"{tap}\" }}\n\
             add element bridge banger_0 owners {{ \"{tap}\" . {mac} . {address} }}\n"
        );
        self.inside.run(move || {
            let began = Instant::now();
            for line in [
                format!("ip tuntap add {tap} mode tap vnet_hdr"),
                format!("ip link set {tap} master bb0n0"),
                format!("bridge link set dev {tap} isolated on learning off flood off"),
                format!("bridge fdb replace {mac} dev {tap} master static"),
            ] {
                program(&line)?;
            }
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
            nft.stdin.take().context("stdin")?.write_all(rules.as_bytes())?;
            ensure!(nft.wait()?.success(), "nft");
            program(&format!("ip link set {tap} up"))?;
            Ok(began.elapsed())
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.helper, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    ensure!(Command::new(words[0]).args(&words[1..]).status()?.success(), "{line}");
    Ok(())
}

/// Attaching a VM, against the same by hand and against itself in a crowd.
pub(crate) fn attach(rounds: u32, report: &mut Report) -> Result<()> {
    let (mut ours, mut theirs) = (World::new(1)?, World::new(1)?);
    report.compare(
        ("attach a VM", "ip, bridge and nft by hand"),
        Target::Ratio(0.2),
        rounds * 3,
        || ours.attach(),
        || theirs.by_hand(),
    )?;
    drop((ours, theirs));
    let (mut crowded, mut empty) = (World::new(CROWD)?, World::new(1)?);
    report.compare(
        (&format!("attach beside {CROWD} VMs"), "attach beside one"),
        Target::Ratio(1.3),
        rounds,
        || crowded.attach(),
        || empty.attach(),
    )
}

/// A published port against socat. The guest is the fake VMM's, a process of this host, so both lead to the same server.
pub(crate) fn ports(rounds: u32, report: &mut Report) -> Result<()> {
    let env = TestEnv::fake().context("the golden home")?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
    let publish = format!("0:{port}");
    let args = ["vm", "run", "-d", "--quiet", "--name", "published", "--memory", "256M", "--init", "agent", "-p"];
    env.banger(args.iter().copied().chain([publish.as_str()])).run().expect(0);
    let vm = env.vm("published");
    let ours =
        vm["published"][0].as_str().and_then(|text| text.rsplit_once(':')).context("a published port")?.0.to_owned();
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut socat = Command::new("socat")
        .arg(format!("TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr,nodelay", free.port()))
        .arg(format!("TCP:127.0.0.1:{port},nodelay"))
        .spawn()
        .context("socat")?;
    let theirs = free.to_string();
    wait_until(SOON, "socat to listen", || TcpStream::connect(&theirs).map(drop).map_err(|error| error.to_string()));
    let result = report
        .compare(
            ("published port, 200 round trips", "socat"),
            Target::Ratio(1.0),
            rounds,
            || round_trips(&ours),
            || round_trips(&theirs),
        )
        .and_then(|()| {
            report.compare(
                ("published port, 256 MiB there and back", "socat"),
                Target::Ratio(1.0),
                rounds,
                || bulk(&ours),
                || bulk(&theirs),
            )
        });
    socat.kill()?;
    socat.wait()?;
    env.banger(["vm", "delete", "-f", "published"]).run().expect(0);
    result
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut chunk = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        if stream.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

fn round_trips(to: &str) -> Result<Duration> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let began = Instant::now();
    let mut byte = [7];
    for _ in 0..TRIPS {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    Ok(began.elapsed())
}

fn bulk(to: &str) -> Result<Duration> {
    let mut stream = TcpStream::connect(to)?;
    let mut reader = stream.try_clone()?;
    let began = Instant::now();
    let reading = std::thread::spawn(move || {
        let (mut chunk, mut left) = (vec![0; 256 << 10], BULK);
        while left > 0 {
            match reader.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<_, std::io::Error>(())
    });
    let chunk = vec![7; 256 << 10];
    for _ in 0..BULK / chunk.len() {
        stream.write_all(&chunk)?;
    }
    reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    Ok(began.elapsed())
}
