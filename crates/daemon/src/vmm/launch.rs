//! From this process to the monitor's: the steps between fork and exec, by name and in order.
//!
//! Decides what every monitor's process is like: a session of its own, dead when its starter is, nothing inherited but
//! what was meant, no core files, no new privileges, Landlock. It does not know what is executed. Namespaces and a root
//! of its own are further steps of the same list, before `no new privileges`.

#![expect(unsafe_code, reason = "code between fork and exec, and system calls that have no safe wrapper")]

use super::{LaunchError, confine::Confinement};
use rustix::{
    io::FdFlags,
    process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal},
};
use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::Stdio,
};
use tokio::process::{Child, Command};

/// How much likelier the kernel's out-of-memory killer takes a monitor than its shim (-1000..1000): a shim that is killed
/// takes its monitor along and leaves no record, a monitor that is killed leaves one.
const OOM_SCORE: &[u8] = b"200";

/// What is to be executed.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Descriptors the program has under the numbers they have here.
    pub(super) inherited: Vec<OwnedFd>,
    pub(super) confinement: Confinement,
}

/// One thing done in the child. The list is run after fork, so it must not allocate or lock.
struct Step {
    name: &'static str,
    run: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

impl Launch {
    /// Starts the program with its stderr on a pipe. The descriptors are closed here afterwards.
    pub(super) fn spawn(self) -> Result<Child, LaunchError> {
        let inherited: Vec<RawFd> = self.inherited.iter().map(AsRawFd::as_raw_fd).collect();
        let steps = steps(getpid(), inherited, self.confinement);
        let names: Vec<&'static str> = steps.iter().map(|step| step.name).collect();
        let (mut failed, report) = io::pipe().map_err(|source| LaunchError::Prepare { what: "start", source })?;

        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear().env("LANG", "C.UTF-8").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let run = move || run(&steps, &report);
        // SAFETY: the steps make system calls on memory that was allocated before; they neither allocate nor lock.
        unsafe { command.pre_exec(run) };
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        let spawned = command.spawn();
        // Closes the writing end here, so that reading below ends.
        drop(command);
        drop(self.inherited);
        spawned.map_err(|source| {
            let mut index = [0];
            match failed.read(&mut index) {
                Ok(1) if usize::from(index[0]) < names.len() => {
                    LaunchError::Step { step: names[usize::from(index[0])], source }
                }
                _ => LaunchError::Program { program: self.program, source },
            }
        })
    }
}

fn run(steps: &[Step], mut report: &io::PipeWriter) -> io::Result<()> {
    for (index, step) in steps.iter().enumerate() {
        if let Err(error) = (step.run)() {
            // A report that cannot be written leaves the step without its name, not without its error.
            let _ = report.write(&[u8::try_from(index).unwrap_or(u8::MAX)]);
            return Err(error);
        }
    }
    Ok(())
}

fn steps(starter: Pid, inherited: Vec<RawFd>, confinement: Confinement) -> Vec<Step> {
    let step = |name, run: Box<dyn Fn() -> io::Result<()> + Send + Sync>| Step { name, run };
    vec![
        step("own session", Box::new(|| Ok(rustix::process::setsid().map(drop)?))),
        step("die with the shim", Box::new(move || die_with(starter))),
        step("default signals", Box::new(default_signals)),
        step(
            "file mode mask",
            Box::new(|| {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
                Ok(())
            }),
        ),
        step("no core files", Box::new(no_core_files)),
        step("out-of-memory score", Box::new(out_of_memory_score)),
        step("inherited descriptors", Box::new(move || inherit_only(&inherited))),
        step("no new privileges", Box::new(|| Ok(rustix::thread::set_no_new_privs(true)?))),
        step("landlock", Box::new(move || confinement.enter())),
    ]
}

/// The signal comes when the *thread* that forked ends, so only a main thread may launch. If it has ended before the
/// request, no signal comes any more, and the parent is another.
fn die_with(starter: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(starter) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
}

/// A signal that is ignored here would stay ignored in the program.
fn default_signals() -> io::Result<()> {
    for signal in
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE]
    {
        // SAFETY: signal(2) with the default disposition; no handler of ours is involved.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Guest memory must not land on a disk.
fn no_core_files() -> io::Result<()> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Core, none)?)
}

fn out_of_memory_score() -> io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    let file = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, OOM_SCORE)?;
    Ok(())
}

/// Whatever else is open, a descriptor this process forgot to mark included, does not reach the program.
fn inherit_only(keep: &[RawFd]) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing here; it marks descriptors.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: the descriptor is open: it is owned by the `Launch` that is being spawned.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}
