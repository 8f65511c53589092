//! The way out: a stream through bridge, rules and pasta, against one over a plain veth.

use super::stage::{INTERNET, NEAR, Stage};
use crate::bench::compare::{Report, Target};
use anyhow::{Result, anyhow};
use banger_testkit::{NetNamespace, wait_until};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// Bytes of one sample.
const BULK: usize = 64 << 20;
/// What a sender has under way at most: a guest's card is no veth, and Debian 12's pasta stalls for seconds when it
/// loses.
const UNDER_WAY: usize = 64 << 10;
const PORT: u16 = 5001;
const SOON: Duration = Duration::from_secs(30);

/// Measures; there is no target: what pasta costs is pasta's.
pub(crate) fn nat(rounds: u32, report: &mut Report) -> Result<()> {
    let stage = Stage::new()?;
    stage.outside.start(serve);
    let (guest, neighbour) = (stage.guest.clone(), stage.neighbour.clone());
    wait_until(SOON, "the way out", || {
        guest.run(|| TcpStream::connect((INTERNET, PORT)).map(drop).map_err(|error| error.to_string()))
    });
    report.compare(
        ("64 MiB from a guest to the outside", "a plain veth"),
        Target::Told,
        rounds,
        || send(&guest, INTERNET),
        || send(&neighbour, NEAR),
    )?;
    stage.end();
    Ok(())
}

fn serve() {
    let Ok(listener) = TcpListener::bind(("0.0.0.0", PORT)) else { return };
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let (mut chunk, mut left) = (vec![0; 256 << 10], BULK);
            while left > 0 {
                match stream.read(&mut chunk) {
                    Ok(count @ 1..) => left = left.saturating_sub(count),
                    _ => return,
                }
            }
            // All of it has come. (Who sends does not say so by closing one half: Debian 12's pasta mistakes that.)
            let _ = stream.write_all(b".");
        });
    }
}

fn send(from: &NetNamespace, to: Ipv4Addr) -> Result<Duration> {
    from.run(move || {
        let mut stream = TcpStream::connect((to, PORT))?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, UNDER_WAY)?;
        let chunk = vec![7; 256 << 10];
        let began = Instant::now();
        for _ in 0..BULK / chunk.len() {
            stream.write_all(&chunk)?;
        }
        let mut last = [0];
        stream.read_exact(&mut last)?;
        Ok::<_, std::io::Error>(began.elapsed())
    })
    .map_err(|error| anyhow!("{to}: {error}"))
}
