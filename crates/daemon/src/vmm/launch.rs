//! From this process to the monitor's: the steps between fork and exec, by name and in order.
//!
//! Decides what every monitor's process is like: namespaces and a root of its own, dead when its starter is, nothing
//! inherited but what was meant, no privilege, no capability, Landlock, a filter of system calls. It does not know what
//! is executed. There are two lists because a process cannot enter a process namespace itself, only its children can:
//!
//! ```text
//! shim ─fork─► A: `outside` steps ─clone(CLONE_PARENT)─► B: `inside` steps, exec
//!              └ ends                                    └ the shim's child, and the first of its process namespace
//! ```
//!
//! Where the host does not let a user have namespaces there is no B, A is the
//! monitor, and that it is weaker confined is said.

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

/// The variable that says which VM a monitor belongs to, for people and for `ps`: its command line has names that every
/// VM has.
const MARK: &str = "BANGER_VM_DIR";
/// In place of a step's number: the program could not be executed.
const EXEC: u8 = u8::MAX - 1;
/// In place of a step's number: B's pid follows.
const PID: u8 = u8::MAX;

/// What is to be executed.
pub(super) struct Launch<'a> {
    pub(super) plan: &'a LaunchPlan,
    /// What it may reach.
    pub(super) rules: &'a Rules,
    /// Its arguments, given the names it knows things by.
    pub(super) args: &'a dyn Fn(&View) -> Vec<OsString>,
    /// Descriptors the program has under the numbers they have here.
    pub(super) inherited: Vec<BorrowedFd<'a>>,
    /// The network card. Without one the program has no network at all where namespaces are allowed.
    pub(super) nic: Option<Nic>,
    /// Its standard output; nothing else.
    pub(super) stdout: Option<BorrowedFd<'a>>,
}

/// A monitor that runs.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) stderr: PipeReader,
    /// What of its confinement is missing.
    pub(super) unconfined: Option<String>,
    /// By which names it knows things.
    pub(super) view: View,
}

/// One thing done in the child. The list is run after fork, so it must not allocate or lock.
struct Step<'a> {
    name: &'static str,
    run: Box<dyn Fn() -> io::Result<()> + 'a>,
}

impl Launch<'_> {
    /// Starts the program. Where the host forbids namespaces it is started without.
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
        // SAFETY: what the child runs makes system calls on memory that was allocated before; it neither allocates nor
        // locks, and never returns.
        let first = match unsafe { libc::fork() } {
            -1 => return Err(prepare("process")(io::Error::last_os_error())),
            0 => become_vmm(&reader, &reporter, (&outside, &inside), sibling, &command),
            pid => pid,
        };
        drop((outside, inside));
        // What is read below ends only when the child's are the only writing ends.
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

    /// What is done in the host's namespaces, and leaving them.
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

    /// What is done in the monitor's own.
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
            // Sockets and files are this user's alone from the moment they are there.
            step("file mode mask", || {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
                Ok(())
            }),
            step("inherited descriptors", move || steps::inherit_only(&inherited)),
        ]);
        // Entering banger's namespace gave it them there.
        if confinement.confined || self.nic.is_some() {
            steps.push(step("capabilities", credentials::give_up_all));
        }
        // After everything that changes credentials, which may take the request back.
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

/// Whether a step failed because this host does not let this user have namespaces.
fn forbidden(step: &str, error: &io::Error) -> bool {
    let Some(error) = error.raw_os_error() else { return false };
    let refused = matches!(error, libc::EPERM | libc::EACCES | libc::ENOSYS);
    // Too many of them, by the host's limits; a kernel that was built without.
    let none_left = matches!(error, libc::ENOSPC | libc::EUSERS | libc::EINVAL);
    match step {
        "user namespace" | "namespaces" => refused || none_left,
        "root" => refused,
        _ => false,
    }
}

/// No file of the machine is longer than its longest disk or its memory.
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
    // Only the shim may hold the reading end: that it is gone is how the shim's end is seen.
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
            // As if the step that made the namespace had failed.
            Err(error) => fail(reporter, u8::try_from(outside.len() - 1).unwrap_or(EXEC), &error),
        }
    }
    run(inside, outside.len());
    fail(reporter, EXEC, &command.execute())
}

fn fail(reporter: &PipeWriter, what: u8, error: &io::Error) -> ! {
    // An error without a number is one of our own steps': the shim is gone, and nobody reads.
    send(reporter, what, error.raw_os_error().unwrap_or(libc::EIO));
    exit(127)
}

/// A word that cannot be written leaves the start without its reason, not without its end.
fn send(mut reporter: &PipeWriter, what: u8, number: i32) {
    let [a, b, c, d] = number.to_ne_bytes();
    let _ = reporter.write(&[what, a, b, c, d]);
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of the shim's.
    unsafe { libc::_exit(code) }
}

/// What came from the child.
#[derive(Debug, Default)]
struct Report {
    pid: Option<i32>,
    failure: Option<(u8, io::Error)>,
}

impl Report {
    /// Reads until the program runs, or nobody is there to say more.
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

/// Waits for a process of ours that has ended or is about to.
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

    /// Comes back only when it fails.
    fn execute(&self) -> io::Error {
        // SAFETY: the path and both arrays end with a NUL, and live as long as `self`.
        unsafe { libc::execve(self.program.as_ptr(), self.args.pointers.as_ptr(), self.environment.pointers.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Strings and an array of pointers to them, with a null at its end.
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
