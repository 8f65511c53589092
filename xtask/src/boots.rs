//! Boots VMs one after the other: a guest that hangs one time in fifty is only found by booting fifty times.
//!
//! A hang is defined by banger itself: a guest without progress for as long as a start's own limit fails that start.

use anyhow::{Context, Result, ensure};
use banger_testkit::TestEnv;
use std::time::Duration;

/// Longer than any start takes to fail, however slow the host.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Number and shape of the VMs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Boots, one after the other.
    #[arg(default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Virtual processors.
    #[arg(long, default_value_t = 2)]
    vcpu: u32,
    /// PID 1: `agent` or `image`.
    #[arg(long, default_value = "agent")]
    init: String,
}

/// Boots a throw-away VM again and again; ends with the first that does not answer.
pub(crate) fn run(args: &Args) -> Result<()> {
    let env = TestEnv::real().context("this machine cannot run VMs")?;
    let vcpu = args.vcpu.to_string();
    let mut times = Vec::new();
    for number in 1..=args.count {
        let shape = ["vm", "run", "--rm", "--quiet", "--memory", "512M", "--vcpu", &vcpu, "--init", &args.init];
        let run = env.banger(shape.iter().chain(&["--", "sh", "-c", "nproc; uname -r"])).patience(PATIENCE).run();
        ensure!(run.code() == 0, "boot {number} of {} failed:\n{run}", args.count);
        let said = run.out();
        ensure!(said.lines().next() == Some(&*vcpu), "boot {number} came up with other processors:\n{run}");
        times.push(run.elapsed.as_secs_f64());
        say(&format!("boot {number:>3} of {}: {:.2} s", args.count, run.elapsed.as_secs_f64()));
    }
    times.sort_by(f64::total_cmp);
    let (first, middle, last) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    say(&format!(
        "{} boots in a row, none hung: {first:.2} s at best, {middle:.2} s in the middle, {last:.2} s at worst",
        args.count
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of the task")]
fn say(line: &str) {
    println!("{line}");
}
