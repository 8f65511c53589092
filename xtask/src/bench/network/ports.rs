//! A published port against socat.

use crate::bench::compare::{Report, Target};
use anyhow::{Context, Result};
use banger_testkit::{TestEnv, wait_until};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

/// Round trips of one latency sample.
const TRIPS: u32 = 200;
/// Bytes of one throughput sample.
const BULK: usize = 256 << 20;
/// How long a program may take to listen.
const SOON: Duration = Duration::from_secs(30);

/// A published port against socat. The guest is the fake VMM's, a process of this host, so both lead to the same
/// server.
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
            // Through shim and agent, where socat is one process: the price of reaching a guest without a network.
            Target::Told,
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
