//! Answers a second: the guests' resolver against dnsmasq, with the same record and the same asker.

use super::stage::{NAME, NEAR, Stage};
use crate::bench::compare::{Report, Target};
use anyhow::{Context, Result, anyhow, ensure};
use banger_testkit::{NetNamespace, wait_until};
use std::{
    net::{Ipv4Addr, UdpSocket},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Questions of one sample, and how many wait for their answers at a time.
const QUESTIONS: u32 = 20_000;
const WINDOW: u32 = 32;
/// How long an answer may take before the sample is void.
const PATIENCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn dns(rounds: u32, report: &mut Report) -> Result<()> {
    let stage = Stage::new()?;
    let record = format!("--host-record={NAME}.vm,{}", stage.address);
    let mut dnsmasq = stage.outside.run(move || {
        Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
            .args(["--pid-file", "--bind-interfaces", "--local-ttl=5", "--log-facility=-", &record])
            .arg(format!("--listen-address={NEAR}"))
            .stderr(Stdio::null())
            .spawn()
            .context("dnsmasq")
    })?;
    let gateway = Ipv4Addr::new(10, 213, 0, 1);
    let (guest, neighbour, address) = (stage.guest.clone(), stage.neighbour.clone(), stage.address);
    for (who, server) in [(&guest, gateway), (&neighbour, NEAR)] {
        wait_until(SOON, &format!("{server} to answer"), || {
            ask(who, server, address, 1, Duration::from_millis(200)).map(drop).map_err(|error| error.to_string())
        });
    }
    let result = report.compare(
        (&format!("{QUESTIONS} names of VMs answered"), "dnsmasq"),
        Target::Ratio(1.0),
        rounds,
        || ask(&guest, gateway, address, QUESTIONS, PATIENCE),
        || ask(&neighbour, NEAR, address, QUESTIONS, PATIENCE),
    );
    dnsmasq.kill()?;
    dnsmasq.wait()?;
    stage.end();
    result
}

/// Asks for the VM's address so often; how long it took until the last answer.
fn ask(
    from: &NetNamespace,
    server: Ipv4Addr,
    address: Ipv4Addr,
    questions: u32,
    patience: Duration,
) -> Result<Duration> {
    let asked = from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((server, 53))?;
        socket.set_read_timeout(Some(patience))?;
        let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [NAME, "vm"] {
            question.push(u8::try_from(label.len())?);
            question.extend(label.bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let mut answer = [0; 512];
        let (mut sent, mut answered) = (0_u32, 0);
        let began = Instant::now();
        while answered < questions {
            while sent < questions && sent - answered < WINDOW {
                question[..2].copy_from_slice(&sent.to_be_bytes()[2..]);
                socket.send(&question)?;
                sent += 1;
            }
            let length = socket.recv(&mut answer)?;
            ensure!(answer[..length].ends_with(&address.octets()), "another answer than {address}");
            answered += 1;
        }
        Ok(began.elapsed())
    });
    asked.map_err(|error| anyhow!("{server}: {error}"))
}
