//! The process between the image's init and the agent: it starts the agent, and starts it again should it die.
//!
//! Nothing else, so that there is nothing in it to go wrong. It takes no signals that could be meant for the agent: what
//! has to be told to the agent goes to the process id the agent wrote down, which each new one writes anew.

use super::{Booted, machine, reaper, say, serve, stand_apart};
use rustix::process::{WaitOptions, wait};
use std::{thread::sleep, time::Duration};

/// Between two agents, so that one that cannot live does not take the whole machine.
const PAUSE: Duration = Duration::from_millis(500);

/// The guard's process. Ends with the machine.
pub(super) fn run(booted: Booted) -> ! {
    reaper::block_all_signals();
    stand_apart(c"@banger-guard");
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
