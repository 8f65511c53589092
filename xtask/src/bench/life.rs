//! What a VM's life costs: many at once, the way down, giving everything back, many commands in one.

use super::{
    compare::{Limit, Report, Target},
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
const COMMANDS: u32 = 200;

/// Ten throw-away VMs at once against one: the time per VM and processor.
pub(crate) fn together(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let cores = u32::try_from(std::thread::available_parallelism()?.get())?;
    let throw_away = || env.banger(["run", "--rm"].iter().chain(&SHAPE).chain(&["--", "true"]));
    report.compare(
        ("10 VMs at once, per VM and core", "one VM"),
        Target::Ratio(1.5),
        rounds,
        || Ok(at_once(AT_ONCE, || timed(throw_away()))? * cores / AT_ONCE),
        || timed(throw_away()),
    )
}

/// An orderly stop.
pub(crate) fn stop(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let fresh = Fresh::new(env);
    // A percentile this far out wants more samples than a median.
    report.series("stop", Limit::P95Ms(2000.0), rounds * 2, || timed(env.banger(["stop", &fresh.start()])))
}

/// Deleting a VM that runs, with everything it holds.
pub(crate) fn delete(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let fresh = Fresh::new(env);
    report.series("rm -f of a VM that runs", Limit::MedianMs(100.0), rounds, || {
        timed(env.banger(["rm", "-f", &fresh.start()]))
    })
}

/// Two hundred commands at once in one VM, none of which may fail.
pub(crate) fn execs(env: &TestEnv, rounds: u32, report: &mut Report) -> Result<()> {
    let name = Fresh::new(env).start();
    report.series(&format!("{COMMANDS} commands at once in one VM"), Limit::NoFailure, rounds, || {
        at_once(COMMANDS, || timed(env.banger(["exec", &name, "--", "true"])))
    })
}

/// VMs that stay, one after the other.
struct Fresh<'a> {
    env: &'a TestEnv,
    count: Cell<u32>,
}

impl<'a> Fresh<'a> {
    fn new(env: &'a TestEnv) -> Self {
        Self { env, count: Cell::new(0) }
    }

    fn start(&self) -> String {
        self.count.set(self.count.get() + 1);
        let name = format!("l{}", self.count.get());
        self.env.banger(["run", "-d", "--name", &name].iter().chain(&SHAPE)).run().expect(0);
        name
    }
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
