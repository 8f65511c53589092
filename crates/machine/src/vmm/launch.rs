//! Starts the process of a VMM: the named steps between fork and exec, in order.
//!
//! Decides what the process of every VMM is like: private namespaces and root, killed when its shim ends, no inherited
//! descriptors but the intended ones, no privileges, no capabilities, Landlock, a seccomp filter. Does not know which
//! program is executed. There are two lists of steps because a process cannot enter a new PID namespace itself; only
//! its children can:
//!
//! ```text
//! shim ─fork─► A: `outside` steps ─clone(CLONE_PARENT)─► B: `inside` steps, exec
//!              └ exits                                   └ a child of the shim, PID 1 of its PID namespace
//! ```
//!
//! Where the host does not allow users to create namespaces there is no B: A becomes the VMM, and the weaker
//! confinement is reported.

#![expect(unsafe_code, reason = "fork, exec and what is done between them")]

mod child;
mod namespace;
mod namespaces;
pub mod probe;
mod steps;

use super::{
    LaunchError,
    confine::{Confinement, Rules, View, credentials, seccomp::Filter},
    plan::LaunchPlan,
};
pub(super) use child::Child;
pub use namespace::Namespace;
pub(in crate::vmm) use namespace::Nic;
use namespaces::IdMaps;
use std::{
    ffi::{CString, OsString},
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    ptr,
};

/// Environment variable that tells people and `ps` to which VM a VMM belongs: its command line contains only names that
/// are the same for every VM.
const MARK: &str = "BANGER_VM_DIR";
/// Report code in place of a step's number: the program could not be executed.
const EXEC: u8 = u8::MAX - 1;
/// Report code in place of a step's number: the pid of B follows.
const PID: u8 = u8::MAX;

/// A VMM to be executed.
pub(super) struct Launch<'a> {
    pub(super) plan: &'a LaunchPlan,
    /// The files it may reach.
    pub(super) rules: &'a Rules,
    /// Renders its arguments, given the names by which it finds files.
    pub(super) args: &'a dyn Fn(&View) -> Vec<OsString>,
    /// Descriptors the program inherits under the same numbers.
    pub(super) inherited: Vec<BorrowedFd<'a>>,
    /// The NIC. Without one the program has no network at all, where namespaces are allowed.
    pub(super) nic: Option<Nic>,
    /// Its standard output; `/dev/null` without one.
    pub(super) stdout: Option<BorrowedFd<'a>>,
}

/// A VMM that has been started.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) stderr: PipeReader,
    /// Missing parts of its confinement, with the reasons.
    pub(super) unconfined: Option<String>,
    /// The names by which it finds files.
    pub(super) view: View,
}

/// One action in the child process. Runs after fork, so it must not allocate or lock.
struct Step<'a> {
    name: &'static str,
    run: Box<dyn Fn() -> io::Result<()> + 'a>,
}

impl Launch<'_> {
    /// Starts the program; without namespaces where the host forbids them.
    pub(super) fn spawn(&self) -> Result<Launched, LaunchError> {
        match self.attempt(Ok(())) {
            Err(LaunchError::Step { step, source }) if forbidden(step, &source) => {
                self.attempt(Err(format!("this host allows no namespaces of its own ({step}: {source})")))
            }
            outcome => outcome,
        }
    }

    fn attempt(&self, namespaces: Result<(), String>) -> Result<Launched, LaunchError> {
        let prepare = |what| move |source| LaunchError::Prepare { what, source };
        let program = fs::canonicalize(&self.plan.program)
            .map_err(|source| LaunchError::Program { program: self.plan.program.clone(), source })?;
        let confinement = self.rules.build(namespaces).map_err(prepare("confinement"))?;
        let command =
            Executable::new(&program, &(self.args)(&confinement.view()), self.plan).map_err(prepare("command line"))?;
        let (reader, reporter) = io::pipe().map_err(prepare("start"))?;
        let (stderr, errors) = io::pipe().map_err(prepare("stderr"))?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(prepare("stdin"))?;

        let filter = Filter::new(self.plan.vmm);
        let outside = self.outside(&confinement, &null, &errors);
        let inside = self.inside(&confinement, &filter, &reporter);
        let names: Vec<&'static str> = outside.iter().chain(&inside).map(|step| step.name).collect();
        let sibling = confinement.root.is_some();
        // SAFETY: the child only makes system calls on memory that was allocated before; it neither allocates nor
        // locks, and never returns.
        let first = match unsafe { libc::fork() } {
            -1 => return Err(prepare("process")(io::Error::last_os_error())),
            0 => become_vmm(&reader, &reporter, (&outside, &inside), sibling, &command),
            pid => pid,
        };
        drop((outside, inside));
        // Reading the report below ends only when the child holds the only write ends.
        drop((reporter, errors));
        let report = Report::read(reader).map_err(prepare("start"))?;
        let pid = if sibling {
            wait_for(first);
            report.pid
        } else {
            Some(first)
        };
        if let Some((step, source)) = report.failure {
            if let Some(pid) = pid {
                wait_for(pid);
            }
            return Err(match names.get(usize::from(step)) {
                Some(step) => LaunchError::Step { step, source },
                None => LaunchError::Program { program: self.plan.program.clone(), source },
            });
        }
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).ok_or(io::ErrorKind::NotFound);
        let child = pid.map_err(io::Error::from).and_then(Child::new).map_err(prepare("process"))?;
        let unconfined = (!confinement.missing.is_empty()).then(|| confinement.missing.join("; "));
        Ok(Launched { child, stderr, unconfined, view: confinement.view() })
    }

    /// Steps in the host's namespaces, the last of which leaves them.
    fn outside<'a>(&'a self, confinement: &Confinement, null: &'a File, errors: &'a PipeWriter) -> Vec<Step<'a>> {
        let output = self.stdout.map_or(null.as_raw_fd(), |stdout| stdout.as_raw_fd());
        let fds = [null.as_raw_fd(), output, errors.as_raw_fd()];
        let longest = longest_file(self.plan);
        let mut steps = vec![
            step("standard streams", move || steps::stdio(fds)),
            step("default signals", steps::default_signals),
            step("limits", move || steps::limits(longest)),
            step("out-of-memory score", steps::out_of_memory_score),
        ];
        if let Some(nic) = &self.nic {
            steps.push(step("network namespace", || nic.enter()));
        } else if confinement.root.is_some() {
            let maps = IdMaps::own();
            steps.push(step("user namespace", move || maps.enter()));
        }
        if confinement.root.is_some() {
            steps.push(step("namespaces", namespaces::unshare));
        }
        steps
    }

    /// Steps in the VMM's own namespaces.
    fn inside<'a>(
        &'a self,
        confinement: &'a Confinement,
        filter: &'a Filter,
        reporter: &'a PipeWriter,
    ) -> Vec<Step<'a>> {
        let nic = self.nic.as_ref().and_then(Nic::fd);
        let inherited: Vec<RawFd> = self.inherited.iter().map(AsRawFd::as_raw_fd).chain(nic).collect();
        let mut steps = vec![step("own session", || Ok(rustix::process::setsid().map(drop)?))];
        if let Some(root) = &confinement.root {
            steps.push(step("root", || root.enter()));
        }
        steps.extend([
            step("working directory", || Ok(rustix::process::chdir(c"/")?)),
            // Sockets and files must be private to this user from the moment they exist.
            step("file mode mask", || {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
                Ok(())
            }),
            step("inherited descriptors", move || steps::inherit_only(&inherited)),
        ]);
        // Entering banger's network namespace has given the process all capabilities there.
        if confinement.confined || self.nic.is_some() {
            steps.push(step("capabilities", credentials::give_up_all));
        }
        // After all steps that change credentials, because those may clear the parent-death signal.
        steps.push(step("die with the shim", || steps::die_with_reader_of(reporter.as_fd())));
        steps.push(step("no new privileges", || Ok(rustix::thread::set_no_new_privs(true)?)));
        if confinement.confined {
            steps.push(step("landlock", || confinement.enter_landlock()));
            steps.push(step("system calls", || filter.enter()));
        }
        steps
    }
}

fn step<'a>(name: &'static str, run: impl Fn() -> io::Result<()> + 'a) -> Step<'a> {
    Step { name, run: Box::new(run) }
}

/// Whether a step failed because this host does not allow this user to create namespaces.
fn forbidden(step: &str, error: &io::Error) -> bool {
    let Some(error) = error.raw_os_error() else { return false };
    let refused = matches!(error, libc::EPERM | libc::EACCES | libc::ENOSYS);
    // The host's limit is reached, or the kernel was built without namespaces.
    let none_left = matches!(error, libc::ENOSPC | libc::EUSERS | libc::EINVAL);
    match step {
        "user namespace" | "namespaces" => refused || none_left,
        "root" => refused,
        _ => false,
    }
}

/// Size of the longest disk or of memory, whichever is larger: no file of the machine is longer.
fn longest_file(plan: &LaunchPlan) -> u64 {
    let disks = plan.disks.iter().filter_map(|disk| fs::metadata(&disk.path).ok()).map(|file| file.len());
    disks.chain([plan.memory.bytes()]).max().unwrap_or(0)
}

/// Runs in the child, and never returns.
fn become_vmm(
    reader: &PipeReader,
    reporter: &PipeWriter,
    (outside, inside): (&[Step<'_>], &[Step<'_>]),
    sibling: bool,
    command: &Executable,
) -> ! {
    // Only the shim may hold the read end: that it is closed is how the end of the shim is noticed.
    // SAFETY: this process has its own table of descriptors, and does not use this one again.
    unsafe { libc::close(reader.as_raw_fd()) };
    let run = |steps: &[Step<'_>], first: usize| {
        for (index, step) in steps.iter().enumerate() {
            if let Err(error) = (step.run)() {
                fail(reporter, u8::try_from(first + index).unwrap_or(EXEC), &error);
            }
        }
    };
    run(outside, 0);
    if sibling {
        match namespaces::fork_sibling() {
            Ok(None) => {}
            Ok(Some(pid)) => {
                send(reporter, PID, pid);
                exit(0);
            }
            // Reported as if the step that unshared the PID namespace had failed.
            Err(error) => fail(reporter, u8::try_from(outside.len() - 1).unwrap_or(EXEC), &error),
        }
    }
    run(inside, outside.len());
    fail(reporter, EXEC, &command.execute())
}

fn fail(reporter: &PipeWriter, what: u8, error: &io::Error) -> ! {
    // An error without a number comes from our own step: the shim has ended, and nobody reads the report.
    send(reporter, what, error.raw_os_error().unwrap_or(libc::EIO));
    exit(127)
}

/// Sends one report message. If it cannot be written, the start fails without a reason, but it does fail.
fn send(mut reporter: &PipeWriter, what: u8, number: i32) {
    let [a, b, c, d] = number.to_ne_bytes();
    let _ = reporter.write(&[what, a, b, c, d]);
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of the shim's.
    unsafe { libc::_exit(code) }
}

/// The messages of the child process.
#[derive(Debug, Default)]
struct Report {
    pid: Option<i32>,
    failure: Option<(u8, io::Error)>,
}

impl Report {
    /// Reads until the program runs, or no process is left to report more.
    fn read(reader: PipeReader) -> io::Result<Self> {
        const LONGEST: u64 = 64;
        let mut bytes = Vec::new();
        reader.take(LONGEST).read_to_end(&mut bytes)?;
        let mut report = Self::default();
        for message in bytes.chunks_exact(5) {
            let number = i32::from_ne_bytes([message[1], message[2], message[3], message[4]]);
            match message[0] {
                PID => report.pid = Some(number),
                step => report.failure = Some((step, io::Error::from_raw_os_error(number))),
            }
        }
        Ok(report)
    }
}

/// Waits for a child that has ended or is about to.
fn wait_for(pid: i32) {
    // SAFETY: waitpid(2) that writes no status.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// A program, its arguments and its environment as execve(2) wants them.
struct Executable {
    program: CString,
    args: Strings,
    environment: Strings,
}

impl Executable {
    fn new(program: &std::path::Path, args: &[OsString], plan: &LaunchPlan) -> io::Result<Self> {
        let mut mark = OsString::from(format!("{MARK}="));
        mark.push(&plan.state_dir);
        let program = PathBuf::from(program).into_os_string();
        Ok(Self {
            args: Strings::new(std::iter::once(&program).chain(args))?,
            environment: Strings::new([&OsString::from("LANG=C.UTF-8"), &mark])?,
            program: c_string(&program)?,
        })
    }

    /// Executes the program; returns only on failure.
    fn execute(&self) -> io::Error {
        // SAFETY: the path and both arrays are terminated, and live as long as `self`.
        unsafe { libc::execve(self.program.as_ptr(), self.args.pointers.as_ptr(), self.environment.pointers.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Strings and a null-terminated array of pointers to them.
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    fn new<'a>(strings: impl IntoIterator<Item = &'a OsString>) -> io::Result<Self> {
        let owned = strings.into_iter().map(c_string).collect::<io::Result<Vec<CString>>>()?;
        let pointers = owned.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Ok(Self { _owned: owned, pointers })
    }
}

fn c_string(string: &OsString) -> io::Result<CString> {
    CString::new(string.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
