//! What a VM's life costs: many at once, the way down, giving everything back, many commands in one.

use super::{
    compare::{Report, Target},
    measures::timed,
};
use anyhow::{Result, ensure};
use banger_testkit::TestEnv;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The agent is PID 1: what is measured is banger, not an image's services.
const SHAPE: [&str; 7] = ["--quiet", "--memory", "256M", "--vcpu", "1", "--init", "agent"];
const AT_ONCE: u32 = 10;
const COMMANDS: usize = 200;

pub(crate) fn run(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let cores = u32::try_from(std::thread::available_parallelism()?.get())?;
    let throw_away = || env.banger(["run", "--rm"].iter().chain(&SHAPE).chain(&["--", "true"]));
    report.compare(
        ("10 VMs at once, per VM and core", "one VM"),
        Target::Ratio(1.5),
        rounds,
        || Ok(at_once(AT_ONCE, || timed(throw_away()))? * cores / AT_ONCE),
        || timed(throw_away()),
    )?;
    let count = Cell::new(0);
    let fresh = || {
        count.set(count.get() + 1);
        let name = format!("l{}", count.get());
        env.banger(["run", "-d", "--name", &name].iter().chain(&SHAPE)).run().expect(0);
        name
    };
    report.compare(
        ("stop", "true (process start)"),
        Target::MoreMs(2000.0),
        rounds,
        || timed(env.banger(["stop", &fresh()])),
        || timed(env.program("true")),
    )?;
    report.compare(
        ("rm -f of a VM that runs", "true (process start)"),
        Target::MoreMs(100.0),
        rounds,
        || timed(env.banger(["rm", "-f", &fresh()])),
        || timed(env.program("true")),
    )?;
    let name = fresh();
    let began = Instant::now();
    at_once(u32::try_from(COMMANDS)?, || timed(env.banger(["exec", &name, "--", "true"])))?;
    super::say(&format!("{COMMANDS} commands at once in one VM: none failed, {:.1} s", began.elapsed().as_secs_f32()));
    Ok(())
}

/// Does it so often at the same time; the time until the last is done.
fn at_once(count: u32, work: impl Fn() -> Result<Duration> + Sync) -> Result<Duration> {
    let began = Instant::now();
    let results: Vec<Result<Duration>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a panic")))).collect()
    });
    let failed: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failed.is_empty(), "{} of {count} failed: {}", failed.len(), failed[0]);
    Ok(began.elapsed())
}
