//! The process between the image's init and the agent: it starts the agent, and restarts it if it dies.
//!
//! It does nothing else, so that nothing in it can fail. Signals for the agent do not go through it: they are sent to
//! the process id that each agent writes down.

use super::{Booted, detach_from_image, machine, reaper, say, serve};
use rustix::process::{WaitOptions, wait};
use std::{thread::sleep, time::Duration};

/// Pause before a restart, so that an agent that cannot run does not use up the machine.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the guard's process, which ends with the machine.
pub(super) fn run(booted: Booted) -> ! {
    reaper::block_all_signals();
    detach_from_image(c"@banger-guard");
    loop {
        match machine::fork() {
            Ok(None) => serve(booted),
            // The agent is this process's only child.
            Ok(Some(_)) => while matches!(wait(WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {},
            Err(error) => say(&format!("starting the agent: {error}")),
        }
        say("the agent died; it is started again");
        sleep(PAUSE);
    }
}
