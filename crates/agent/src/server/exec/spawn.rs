//! Starts a planned process: in its own session, process group and cgroup, as the right user, and with the messages of
//! a shell on failure.
#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use super::{
    group::Group,
    plan::{Cwd, Plan},
    terminal::Terminal,
};
use banger_proto::agent::exec::Outcome;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    io::{Errno, read, write},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, chdir, ioctl_tiocsctty, setsid, umask},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use std::{ffi::CString, io, process::Stdio};
use tokio::process::{Child, Command};

/// A started process.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) pid: Pid,
    /// With a terminal, the child has no pipes.
    pub(super) terminal: Option<Terminal>,
    pub(super) group: Option<Group>,
}

/// The step before exec that failed, as reported by the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session = 1,
    Group = 2,
    User = 3,
    Directory = 4,
}

/// Starts the process. `group` is absent if the agent has no cgroups of its own.
pub(super) fn start(plan: &Plan, group: Option<Group>) -> Result<Started, Outcome> {
    let failed =
        |error: &io::Error| Outcome::NotStarted { code: 125, message: format!("cannot start a process: {error}") };
    let mut command = Command::new(&plan.program);
    command.args(&plan.args).env_clear().envs(&plan.env);
    if let Some(arg0) = &plan.arg0 {
        command.arg0(arg0);
    }
    let terminal = if let Some(size) = plan.tty {
        let owner = plan.account.as_ref().map(|account| account.uid);
        let (terminal, peer) = Terminal::open(size, owner).map_err(|error| failed(&error))?;
        for stream in [Command::stdin, Command::stdout, Command::stderr] {
            stream(&mut command, Stdio::from(peer.try_clone().map_err(|error| failed(&error))?));
        }
        Some(terminal)
    } else {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        None
    };
    let (failed_step, step_writer) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|error| failed(&error.into()))?;
    let setup = Setup::new(plan, group.as_ref(), step_writer).map_err(|error| failed(&error))?;
    // SAFETY: the closure makes system calls on memory that was made before the fork, and allocates nothing.
    unsafe { command.pre_exec(move || setup.run()) };
    let child = command.spawn();
    // The closure holds the writing end; unless it is dropped, the read below never sees the end of file.
    drop(command);
    match child {
        Ok(child) => match child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            Some(pid) => Ok(Started { child, pid, terminal, group }),
            None => Err(failed(&io::ErrorKind::NotFound.into())),
        },
        Err(error) => Err(explain(plan, &error, &failed_step)),
    }
}

/// Steps of the child before exec. Everything they need is allocated before the fork.
struct Setup {
    step_writer: OwnedFd,
    procs: Option<OwnedFd>,
    controlling: bool,
    user: Option<(Vec<rustix::fs::Gid>, rustix::fs::Gid, rustix::fs::Uid)>,
    cwd: CString,
    home: bool,
}

impl Setup {
    fn new(plan: &Plan, group: Option<&Group>, step_writer: OwnedFd) -> io::Result<Self> {
        let (cwd, home) = match &plan.cwd {
            Cwd::Named(path) => (path, false),
            Cwd::Home(path) => (path, true),
        };
        let user = plan.account.as_ref().map(|account| {
            let groups = account.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
            (groups, rustix::fs::Gid::from_raw(account.gid), rustix::fs::Uid::from_raw(account.uid))
        });
        Ok(Self {
            step_writer,
            procs: group.map(|group| group.procs.try_clone()).transpose()?,
            controlling: plan.tty.is_some(),
            user,
            cwd: CString::new(cwd.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
            home,
        })
    }

    fn run(&self) -> io::Result<()> {
        self.session().map_err(|error| self.report(Step::Session, error))?;
        self.group().map_err(|error| self.report(Step::Group, error))?;
        self.user().map_err(|error| self.report(Step::User, error))?;
        self.directory().map_err(|error| self.report(Step::Directory, error))
    }

    fn session(&self) -> Result<(), Errno> {
        setsid()?;
        if self.controlling {
            // SAFETY: descriptor 0 is the terminal's end, put there before this closure runs.
            ioctl_tiocsctty(unsafe { rustix::fd::BorrowedFd::borrow_raw(0) })?;
        }
        umask(Mode::from_raw_mode(0o022));
        // Signals ignored by a parent of the agent (a shell ignores SIGINT for background jobs) must not be ignored by
        // the command.
        for signal in 1..=libc::SIGRTMAX() {
            // SAFETY: the default action needs no handler; KILL, STOP and the C library's own signals are refused.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    }

    fn group(&self) -> Result<(), Errno> {
        if let Some(procs) = &self.procs {
            write(procs, b"0")?;
            // The agent itself is protected from the OOM killer; its children are not.
            write(&open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty())?, b"0")?;
        }
        Ok(())
    }

    fn user(&self) -> Result<(), Errno> {
        if let Some((groups, gid, uid)) = &self.user {
            set_thread_groups(groups)?;
            set_thread_gid(*gid)?;
            set_thread_uid(*uid)?;
        }
        Ok(())
    }

    fn directory(&self) -> Result<(), Errno> {
        match chdir(self.cwd.as_c_str()) {
            Err(_) if self.home => chdir(c"/"),
            other => other,
        }
    }

    fn report(&self, step: Step, error: Errno) -> io::Error {
        let _ = write(&self.step_writer, &[step as u8]);
        io::Error::from_raw_os_error(error.raw_os_error())
    }
}

/// Builds the outcome that a shell would report for a program that did not start.
fn explain(plan: &Plan, error: &io::Error, failed_step: &OwnedFd) -> Outcome {
    let mut step = [0];
    let step = match read(failed_step, &mut step) {
        Ok(1) => step[0],
        _ => 0,
    };
    let not_started = |code, message| Outcome::NotStarted { code, message };
    let reason = error.to_string();
    // The error number adds nothing to the text.
    let reason = reason.split(" (os error").next().unwrap_or(&reason);
    match step {
        step if step == Step::Directory as u8 => {
            let (Cwd::Named(path) | Cwd::Home(path)) = &plan.cwd;
            not_started(126, format!("cannot change to the directory {path:?}: {reason}"))
        }
        step if step == Step::User as u8 => not_started(125, format!("cannot become the user: {reason}")),
        step if step == Step::Session as u8 => not_started(125, format!("cannot start a session: {reason}")),
        step if step == Step::Group as u8 => not_started(125, format!("cannot enter the cgroup: {reason}")),
        _ => match error.kind() {
            io::ErrorKind::NotFound => not_started(127, format!("{:?}: {reason}", plan.program)),
            io::ErrorKind::InvalidInput => {
                not_started(125, "an argument or variable of the command has a NUL in it".to_owned())
            }
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => {
                not_started(125, format!("cannot start a process: {reason}"))
            }
            _ => not_started(126, format!("{:?}: {reason}", plan.program)),
        },
    }
}
