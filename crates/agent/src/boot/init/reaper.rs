//! Process 1 where the agent is the init: it reaps orphans, restarts the agent, and forwards power requests.
//!
//! It accepts every way in which the usual commands ask an init to shut down: systemd's real-time signals, busybox's
//! plain signals and the old `/run/initctl`. The agent then performs the shutdown.
#![expect(unsafe_code, reason = "signals have to be blocked and read as a descriptor")]

use super::{Booted, Never, machine, power_signal, say, serve};
use banger_proto::agent::event::Power;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{FromRawFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    io::{Errno, read},
    process::{Pid, WaitOptions, wait},
};
use std::{io, mem::MaybeUninit, thread::sleep, time::Duration};

/// `struct init_request` of sysvinit: magic, command, run level, and padding.
const INITCTL: &str = "/run/initctl";
const INITCTL_MAGIC: u32 = 0x0309_1969;
const INITCTL_RUNLEVEL: u32 = 1;
const INITCTL_LENGTH: usize = 384;

/// Runs the loop of process 1.
pub(super) fn run(mut agent: Pid, booted: Booted) -> Result<Never, super::BootError> {
    use super::Attempt;
    let signals = block_signals().attempt(|| "reading signals".to_owned())?;
    let initctl = open_initctl();
    loop {
        if reap(agent) {
            say("the agent died; it is started again");
            // A pause, so that an agent that cannot run does not use up the machine.
            sleep(Duration::from_millis(500));
            match machine::fork().attempt(|| "starting the agent again".to_owned())? {
                None => serve(booted),
                Some(pid) => agent = pid,
            }
        }
        let mut waited = vec![PollFd::new(&signals, PollFlags::IN)];
        waited.extend(initctl.iter().map(|fifo| PollFd::new(fifo, PollFlags::IN)));
        if matches!(poll(&mut waited, None), Err(error) if error != Errno::INTR) {
            sleep(Duration::from_secs(1));
        }
        let verbs = [read_signal(&signals), initctl.as_ref().and_then(read_initctl)];
        for verb in verbs.into_iter().flatten() {
            tell(agent, verb);
        }
    }
}

/// Reaps every dead child; returns whether the agent was one of them.
fn reap(agent: Pid) -> bool {
    let mut died = false;
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        died |= pid == agent;
    }
    died
}

/// Forwards a power request to the agent, whose process accepts the same signals.
fn tell(agent: Pid, verb: Power) {
    // SAFETY: kill has no memory to be wrong about.
    let sent = unsafe { libc::kill(agent.as_raw_nonzero().get(), power_signal(verb)) };
    if sent == -1 {
        say(&format!("the agent cannot be told to go down: {}", io::Error::last_os_error()));
    }
}

/// Blocks every signal, and returns a descriptor to read them from.
fn block_signals() -> io::Result<OwnedFd> {
    let set = block_all_signals();
    // SAFETY: signalfd reads the set.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Blocks every signal that can be blocked, and returns the set.
pub(super) fn block_all_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set, and sigprocmask reads it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    }
}

/// Unblocks signals for the agent, which inherits the mask.
pub(super) fn unblock_signals() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; sigprocmask reads it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

fn read_signal(signals: &OwnedFd) -> Option<Power> {
    let mut last = None;
    let mut record = [0; size_of::<libc::signalfd_siginfo>()];
    while read(signals, &mut record).is_ok_and(|count| count == record.len()) {
        let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        last = meaning(i32::try_from(number).unwrap_or(0)).or(last);
    }
    last
}

fn meaning(signal: i32) -> Option<Power> {
    let rt = signal - libc::SIGRTMIN();
    match signal {
        libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGPWR => Some(Power::Poweroff),
        libc::SIGTERM | libc::SIGINT => Some(Power::Reboot),
        _ if rt == 3 || rt == 4 => Some(Power::Poweroff),
        _ if rt == 5 || rt == 6 => Some(Power::Reboot),
        _ => None,
    }
}

fn open_initctl() -> Option<OwnedFd> {
    match mknodat(CWD, INITCTL, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(_) => return None,
    }
    // Open for writing, too: a FIFO without a writer would be at its end, and poll would not wait.
    open(INITCTL, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn read_initctl(fifo: &OwnedFd) -> Option<Power> {
    let mut request = [0; INITCTL_LENGTH];
    let count = read(fifo, &mut request).ok()?;
    requested(&request[..count])
}

fn requested(request: &[u8]) -> Option<Power> {
    let word = |at: usize| Some(u32::from_ne_bytes(request.get(at..at + 4)?.try_into().ok()?));
    if word(0)? != INITCTL_MAGIC || word(4)? != INITCTL_RUNLEVEL {
        return None;
    }
    match u8::try_from(word(8)?).ok()? {
        b'0' => Some(Power::Poweroff),
        b'6' => Some(Power::Reboot),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_levels_of_initctl() {
        let request = |magic: u32, command: u32, level: u8| {
            [magic.to_ne_bytes(), command.to_ne_bytes(), u32::from(level).to_ne_bytes(), [0; 4]].concat()
        };
        assert_eq!(requested(&request(INITCTL_MAGIC, 1, b'0')), Some(Power::Poweroff));
        assert_eq!(requested(&request(INITCTL_MAGIC, 1, b'6')), Some(Power::Reboot));
        assert_eq!(requested(&request(INITCTL_MAGIC, 1, b'3')), None);
        assert_eq!(requested(&request(1, 1, b'0')), None);
        assert_eq!(requested(&[0x69]), None);
    }

    #[test]
    fn signals_of_systemd_and_busybox() {
        assert_eq!(meaning(libc::SIGRTMIN() + 4), Some(Power::Poweroff));
        assert_eq!(meaning(libc::SIGRTMIN() + 5), Some(Power::Reboot));
        assert_eq!(meaning(libc::SIGUSR2), Some(Power::Poweroff));
        assert_eq!(meaning(libc::SIGTERM), Some(Power::Reboot));
        assert_eq!(meaning(libc::SIGCHLD), None);
        assert_eq!(meaning(libc::SIGHUP), None);
    }
}
