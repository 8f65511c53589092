//! `/run/initramfs/shutdown`, the last program that systemd runs, as process 1, after everything else has ended.
//!
//! The agent is still running (its first argument begins with `@`) and holds the work disk and the channel to the host.
//! This program tells it the verb; the agent freezes the disk, reports, and resets the machine. If the agent is gone,
//! this program resets the machine without a report, and the host draws its own conclusion.
#![expect(unsafe_code, reason = "the safe wrappers know no real-time signals")]

use crate::boot::{power_signal, reset, say};
use banger_proto::agent::event::Power;
use std::{ffi::OsString, fs, process::ExitCode, thread::sleep, time::Duration};

/// File with the agent's process id, in the directory that systemd makes our root.
pub(crate) const PID_FILE: &str = "agent.pid";
/// Time limit for the agent: it freezes the disk, and waits two seconds for the host's acknowledgement.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Signals the agent and waits for the reset.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let verb = match args.first() {
        Some(verb) if verb == "reboot" || verb == "kexec" => Power::Reboot,
        _ => Power::Poweroff,
    };
    match agent() {
        // SAFETY: kill has no memory to be wrong about.
        Some(pid) if unsafe { libc::kill(pid, power_signal(verb)) } == 0 => sleep(AGENT_TIMEOUT),
        _ => say("the agent is gone before the shutdown's end"),
    }
    rustix::fs::sync();
    reset()
}

fn agent() -> Option<i32> {
    let pid: i32 = fs::read_to_string(format!("/{PID_FILE}")).ok()?.trim().parse().ok()?;
    (pid > 1).then_some(pid)
}
