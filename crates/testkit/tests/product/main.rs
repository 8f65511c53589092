//! The whole product on the fake VMM: real CLI, real daemon, real shim, real agent, and no virtual machine.
//!
//! The agent runs on the host here, so no test asks it for anything that would change the host.

mod ageing;
mod attachments;
mod bad_input;
mod bundles;
mod copy;
mod daemon;
mod disk_full;
mod doctor;
mod faults;
mod firecracker;
mod forced;
mod hostile;
mod image_builds;
mod image_files;
mod image_pulls;
mod images;
mod interrupt;
mod kernel_pulls;
mod kernels;
mod killed_images;
mod life;
mod many;
mod names;
mod network;
mod network_processes;
mod other_users;
mod output;
mod policies;
mod preempted_starts;
mod prune;
mod registered;
mod session;
mod sizes;
mod stats;
mod terminal;
mod token_service;
mod transitions;
mod unsynced_images;
mod waiting;
mod wear;
mod who_dies;
mod workspace;

use banger_testkit::TestEnv;
use std::time::Duration;

/// Longest a step on the fake may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Starts a VM that stays up.
#[track_caller]
fn start(env: &TestEnv, name: &str) {
    env.banger(["vm", "run", "-d", "--quiet", "--name", name]).patience(SOON).run().expect(0);
}

/// Names and states of all VMs.
#[track_caller]
fn vms(env: &TestEnv) -> Vec<(String, String)> {
    let list = env.banger(["vm", "list", "-a", "--json"]).run().expect(0).json();
    let text = |vm: &serde_json::Value, key: &str| vm[key].as_str().unwrap_or_default().to_owned();
    list.as_array().expect("a list").iter().map(|vm| (text(vm, "name"), text(vm, "state"))).collect()
}

/// Deletes a VM whatever it does, and checks that the environment is empty then.
#[track_caller]
fn delete(env: &TestEnv, name: &str) {
    env.banger(["vm", "delete", "-f", name]).run().expect(0);
    env.assert_nothing_left();
}
