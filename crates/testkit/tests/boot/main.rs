//! The whole product on real QEMU, with the real kernel and the real image: what a user can do.
//!
//! A boot takes seconds in software emulation and both processors of a small machine, so the harness's threads (one per
//! processor) are the limit of what runs at once, and a test that starts many VMs runs alone.

mod broken;
mod built;
mod confined;
mod console;
mod copy;
mod disk;
mod empty_cache;
mod generic_kernel;
mod images;
mod life;
mod many;
mod modular_kernel;
mod network;
mod no_init;
mod plain_init;
mod power;
mod session;
mod survival;
mod terminal;
mod workspace;

use banger_testkit::TestEnv;
use std::time::Duration;

/// Longest a boot, or an orderly way down, may take on a busy two-core machine in software emulation.
const BOOT: Duration = Duration::from_secs(180);

/// Arguments of a VM that stays up. The agent as PID 1 is the fastest start; a test about services asks for `auto`.
const STAYS: [&str; 6] = ["-d", "--memory", "256M", "--init", "agent", "--quiet"];

/// Starts a VM that stays up.
#[track_caller]
fn start(env: &TestEnv, name: &str) {
    start_with(env, name, &[]);
}

/// The same with further arguments.
#[track_caller]
fn start_with(env: &TestEnv, name: &str, more: &[&str]) {
    let arguments = ["vm", "run", "--name", name].into_iter().chain(STAYS).chain(more.iter().copied());
    env.banger(arguments).run().expect(0);
}

/// Runs a shell line in a VM and gives its stdout, which must be all that happens.
#[track_caller]
fn sh(env: &TestEnv, name: &str, line: &str) -> String {
    env.banger(["vm", "exec", name, "--", "sh", "-c", line]).run().expect(0).out()
}

/// Deletes a VM whatever it does, and checks that the environment is empty then.
#[track_caller]
fn delete(env: &TestEnv, name: &str) {
    env.banger(["vm", "delete", "-f", name]).run().expect(0);
    env.assert_nothing_left();
}
