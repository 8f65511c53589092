//! Process 1: the image's init, or a small one of our own.

use super::{Attempt, BootError, Booted, Never, machine, say};
use crate::server::{self, Channel};
use banger_proto::agent::boot::Init;
use rustix::{
    fs::{Access, access},
    process::setsid,
};
use std::{fs, io, os::unix::process::CommandExt, process::Command};

mod guard;
mod reaper;

/// Programs that the kernel itself would start.
const CANDIDATES: [&str; 4] = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init"];

/// Decides whether the image's init runs. Called in the new root.
pub(super) fn choose(wanted: Init) -> Result<Init, BootError> {
    match (wanted, image_init()) {
        (Init::Agent, _) | (Init::Auto, None) => Ok(Init::Agent),
        (Init::Auto | Init::Image, Some(_)) => Ok(Init::Image),
        (Init::Image, None) => Err(io::Error::from(io::ErrorKind::NotFound))
            .attempt(|| format!("the image has no init ({})", CANDIDATES.join(", "))),
    }
}

fn image_init() -> Option<&'static str> {
    CANDIDATES
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file()) && access(*path, Access::EXEC_OK).is_ok())
}

/// Starts the agent beside process 1, and becomes process 1. Under the image's init, which does not know the agent, a
/// guard process between the two restarts it.
pub(super) fn hand_over(booted: Booted) -> Result<Never, BootError> {
    let init = booted.init;
    match machine::fork().attempt(|| "starting the agent".to_owned())? {
        None if init == Init::Agent => serve(booted),
        None => guard::run(booted),
        Some(agent) if init == Init::Agent => reaper::run(agent, booted),
        Some(_) => {
            let path = image_init().expect("it was found a moment ago");
            // The kernel passed its arguments for init to us; an init that wants them reads /proc/cmdline.
            let error = Command::new(path).env_clear().envs([("HOME", "/"), ("TERM", "linux")]).exec();
            Err(error).attempt(|| format!("starting the image's init {path}"))
        }
    }
}

/// Runs the agent's process.
#[expect(clippy::exit, reason = "a forked child has no main to return to")]
fn serve(mut booted: Booted) -> ! {
    reaper::unblock_signals();
    detach_from_image(c"@banger-agent");
    // For the shutdown hook, in a directory that only root writes to.
    put(&format!("/run/initramfs/{}", crate::shutdown_hook::PID_FILE), &std::process::id().to_string());
    booted.phases.end("agent");
    let reason = server::run(server::Guest::from(booted), Channel::Device);
    say(&format!("the agent ends: {reason}"));
    std::process::exit(1)
}

/// Separates this process from the image: a session and a cgroup of its own, protection from the OOM killer, and a name
/// that begins with `@`, so that systemd spares it to the end.
fn detach_from_image(name: &'static std::ffi::CStr) {
    let _ = setsid();
    machine::name_process(name);
    // Not in the root group, whose processes systemd moves to its own.
    put("/sys/fs/cgroup/banger/agent/cgroup.procs", &std::process::id().to_string());
    put("/proc/self/oom_score_adj", "-1000");
}

fn put(path: &str, text: &str) {
    if let Err(error) = fs::write(path, text) {
        say(&format!("{path}: {error}"));
    }
}

/// Whether the image's init is systemd, according to the name of its program.
pub(crate) fn is_systemd() -> bool {
    let program = image_init().and_then(|path| fs::canonicalize(path).ok());
    program.is_some_and(|path| path.file_name().is_some_and(|name| name == "systemd"))
}

/// Returns systemd's signal for a power verb; our own process 1 accepts them, too.
pub(crate) fn power_signal(verb: banger_proto::agent::event::Power) -> i32 {
    use banger_proto::agent::event::Power;
    libc::SIGRTMIN() + if verb == Power::Poweroff { 4 } else { 5 }
}
