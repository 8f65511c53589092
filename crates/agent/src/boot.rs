//! `/init`: from an unpacked initramfs to the image's root file system with an agent beside its init.
//!
//! Single-threaded until the fork. This order works together with systemd:
//!
//! ```text
//! /dev /proc /sys   a timer?   modules   image + work disk → overlay   directories on the work disk   modules tree
//! /dev /proc /sys /run /sys/fs/cgroup moved or mounted in the new root   MS_MOVE + chroot
//! names, clock, entropy, lo, eth0   fork: the child serves, the parent becomes the image's init or our own
//! ```
//!
//! A failed step ends the boot: the error is printed on the console and reported to the host if it can be reached, and
//! the machine is reset, so that nothing waits for a guest that will never answer.

mod config;
mod console;
mod device;
mod grow;
mod identity;
mod init;
mod machine;
mod modules;
mod mounts;
mod network;
mod overlay;
mod phases;
mod seed;
mod timer;

pub(crate) use config::read as read_config;
pub(crate) use console::say;
pub(crate) use device::has_vsock;
pub(crate) use init::{is_systemd, power_signal};
pub(crate) use machine::{clock_ns, freeze, reset, shift_clock};
pub(crate) use mounts::BIN;
pub(crate) use phases::{Phases, boottime_ms};

use crate::server;
use banger_proto::agent::boot::{BootConfig, Init, LATE_TIMER, NO_TIMER};
use rustix::fd::OwnedFd;
use std::{io, process::ExitCode};

/// Error of a boot step.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(crate) struct BootError {
    what: String,
    source: io::Error,
}

/// Adds what was attempted to an error.
trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, BootError> {
        self.map_err(|error| BootError { what: what(), source: error.into() })
    }
}

/// Results of the boot, for the agent.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) config: BootConfig,
    /// [`Init::Image`] or [`Init::Agent`].
    pub(crate) init: Init,
    pub(crate) phases: Phases,
    /// Root directory of the work disk, whose mount is no longer visible; it is frozen at the end.
    pub(crate) work: Option<OwnedFd>,
    /// Problems that did not end the boot.
    pub(crate) troubles: Vec<String>,
}

/// Boots the guest. Never returns to the kernel, which panics if process 1 exits.
pub(crate) fn run() -> ExitCode {
    let mut phases = Phases::default();
    phases.end("kernel");
    match sequence(phases) {
        Ok(never) => match never {},
        Err(error) => give_up(&error),
    }
}

enum Never {}

fn sequence(mut phases: Phases) -> Result<Never, BootError> {
    mounts::first()?;
    console::adopt();
    if !timer::is_there() {
        say(NO_TIMER);
        reset();
    }
    let config = config::take()?;
    let moment = config::take_moment()?;
    if moment.as_ref().is_some_and(|moment| moment.timer_tries > 0) && timer::is_late() {
        say(LATE_TIMER);
        reset();
    }
    modules::load_all();
    phases.end("modules");

    let mut troubles = Vec::new();
    let root = overlay::assemble(&config, &mut troubles)?;
    mounts::kernel_trees()?;
    mounts::enter()?;
    identity::apply(&config, moment.as_ref(), &mut troubles);
    phases.end("mounts");

    let init = init::choose(config.init)?;
    if init == Init::Image {
        identity::prepare_systemd();
    }
    machine::limits();
    let booted = Booted { config, init, phases, work: root.work, troubles };
    init::hand_over(booted)
}

/// Reports a failed boot and resets the machine.
fn give_up(error: &BootError) -> ! {
    say(&format!("the boot failed: {error}"));
    // The host sees it on the console in any case; the event gives it the reason as one sentence.
    server::send_trouble(&format!("the guest could not boot: {error}"));
    reset()
}
