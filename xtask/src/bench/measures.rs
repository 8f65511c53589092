//! The comparisons that need nothing but banger, QEMU and `true`.

use super::{
    compare::{Report, Target},
    floor::Floor,
};
use anyhow::{Context, Result, ensure};
use banger_testkit::{Invocation, TestEnv};
use std::time::Duration;

/// VMs in the store while `ps` is measured.
const STORED: u32 = 50;
/// What a VM for a boot comparison looks like.
const SHAPE: [&str; 6] = ["--memory", "512M", "--vcpu", "1", "--init", "agent"];

/// A throw-away VM against bare QEMU with the same arguments, kernel and initramfs.
pub(crate) fn run(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let floor = Floor::capture(env, &SHAPE)?;
    report.compare(
        ("vm run --rm -- true", "bare QEMU, same argv, until the agent's announcement"),
        Target::Ratio(1.25),
        rounds,
        || timed(env.banger(["vm", "run", "--rm", "--quiet"].iter().chain(&SHAPE).chain(&["--", "true"]))),
        || floor.boot(),
    )
}

/// `ps` with VMs in the store against process start, and what daemon and shim weigh.
pub(crate) fn ps(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    env.banger(["ps"]).run().expect(0);
    let daemon = env.daemon().context("a daemon")?;
    report.size("bangerd resident, no VM", memory(daemon.pid, "Rss")?, 15 << 10);
    for i in 0..STORED {
        env.banger(["vm", "create", "--no-start", "--name", &format!("stored{i}")]).run().expect(0);
    }
    report.size("bangerd resident, 50 VMs", memory(daemon.pid, "Rss")?, 15 << 10);
    report.compare(
        ("ps with 50 VMs", "true (process start)"),
        Target::MoreMs(5.0),
        rounds * 5,
        || timed(env.banger(["ps", "-a"])),
        || timed(env.program("true")),
    )?;
    env.banger(["vm", "run", "-d", "--quiet", "--name", "weighed"].iter().chain(&SHAPE)).run().expect(0);
    report.size("banger-shim anonymous", memory(env.vm_process("weighed", "shim_pid").pid, "Anonymous")?, 4 << 10);
    Ok(())
}

/// Creating a VM costs the same whatever the size of its disk.
pub(crate) fn create(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let count = std::cell::Cell::new(0);
    let create = |size: &str| {
        count.set(count.get() + 1);
        timed(env.banger(["vm", "create", "--no-start", "--disk-size", size, "--name", &format!("c{}", count.get())]))
    };
    report.compare(
        ("vm create --disk-size 100G", "vm create --disk-size 1G"),
        Target::Ratio(1.3),
        rounds,
        || create("100G"),
        || create("1G"),
    )
}

/// Runs it to its end, which must be a good one, without reading what it says.
pub(crate) fn timed(command: Invocation) -> Result<Duration> {
    let (elapsed, status) = command.time();
    ensure!(status.success(), "a measured command ended with {status}");
    Ok(elapsed)
}

/// A line of `smaps_rollup`, in KiB.
fn memory(pid: u32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line =
        text.lines().find(|line| line.starts_with(&format!("{key}:"))).with_context(|| format!("{key} in {path}"))?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}
