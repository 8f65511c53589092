//! The first run of all, twice at once.

use banger_testkit::{TestEnv, alone, require};
use std::time::Duration;

/// Two pulls, of which one waits for the other, on a slow mirror and two cores.
const FIRST_RUN: Duration = Duration::from_secs(20 * 60);

#[test]
fn two_first_runs_at_once_pull_once() {
    let _machine = alone();
    if !require("qemu") || !require("apt") {
        return;
    }
    let env = TestEnv::empty();
    let outs = std::thread::scope(|scope| {
        let run = |i: i32| {
            let env = &env;
            scope.spawn(move || {
                let line = format!("exit {i}");
                let args = ["vm", "run", "--rm", "--memory", "256M", "--", "sh", "-c", &line];
                env.banger(args).patience(FIRST_RUN).run().expect(i)
            })
        };
        [run(3), run(4)].map(|run| run.join().expect("no run failed"))
    });
    for out in &outs {
        assert!(out.err().contains("debian-6.1") && out.err().contains("debian-bookworm"), "says what it does: {out}");
    }
    let kernels = env.banger(["kernel", "list", "--json"]).run().expect(0).json();
    let images = env.banger(["image", "list", "--json"]).run().expect(0).json();
    assert_eq!((kernels.as_array().map(Vec::len), images.as_array().map(Vec::len)), (Some(1), Some(1)));
    let log = std::fs::read_to_string(env.layout().daemon_log()).expect("the daemon's log");
    let phases = phases_of_pulls(&log);
    let downloads = phases.iter().filter(|phase| phase.starts_with("downloading linux-image-")).count();
    assert_eq!(downloads, 1, "{phases:#?}");
    // Had each of the two built its own, their phases would alternate.
    let mut once = phases.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(phases.len(), once.len(), "a phase came twice: {phases:#?}");
    env.assert_nothing_left();
}

/// The phases of pulls in the order in which they came. A shared pull tells both of its watchers at once, which counts
/// as one.
fn phases_of_pulls(log: &str) -> Vec<&str> {
    let steps = log.lines().filter_map(|line| line.split_once(" INFO ")?.1.split_once(" operation="));
    let pulls = steps.map(|(step, _)| step).take_while(|step| !step.contains(" vcpu · "));
    let mut phases: Vec<_> = pulls.filter(|step| !step.starts_with("pull")).collect();
    phases.dedup();
    phases
}
