//! Environment of one test: a `BANGER_HOME` of its own, cleared environment variables, and an end that leaves nothing
//! behind.

use crate::{
    binaries::bin_dir,
    command::{Invocation, Output},
    golden::Golden,
    launcher::Launcher,
    netns::NetNamespace,
    process::{Identity, marked_processes},
    wait::wait_until,
};
use banger_proto::layout::Layout;
use rustix::process::Signal;
use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Time for a process to end once it was told to.
const END: Duration = Duration::from_secs(20);

/// A hermetic home for banger.
///
/// Dropping it ends every process that belongs to it and removes it. When the test failed, the daemon's log and the
/// consoles are printed first; `BANGER_TEST_KEEP=1` keeps the directory then.
#[derive(Debug)]
pub struct TestEnv {
    home: tempfile::TempDir,
    layout: Layout,
    /// VMMs run unconfined: the fake VMM runs programs of this host, which a confined VMM may not.
    unconfined: bool,
    /// How programs are started. In a network namespace of its own VMs may reach what is in it.
    launcher: Launcher,
    /// Further variables of every program.
    variables: Vec<(String, OsString)>,
}

impl TestEnv {
    /// Creates an empty environment: no kernel, no image, no configuration.
    #[track_caller]
    pub fn empty() -> Self {
        Self::empty_in(&base_dir())
    }

    #[track_caller]
    fn empty_in(base: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("").rand_bytes(6).tempdir_in(base);
        let home = home.unwrap_or_else(|error| panic!("a directory in {}: {error}", base.display()));
        std::fs::create_dir(home.path().join("home")).expect("a home directory");
        let layout = Layout::resolve(|key| (key == "BANGER_HOME").then(|| home.path().into()), uid())
            .expect("BANGER_HOME says where everything is");
        Self { home, layout, unconfined: false, launcher: Launcher::default(), variables: Vec::new() }
    }

    /// Creates an environment with the real kernel and image, in which VMs run on QEMU. `None` if this host cannot; the
    /// test is then recorded as skipped.
    #[track_caller]
    pub fn real() -> Option<Self> {
        if !crate::require("qemu") {
            return None;
        }
        Self::with_golden()
    }

    /// Like [`Self::real`], for an ordinary user who owns the home and runs the programs. This process must be root.
    #[track_caller]
    pub fn real_as(uid: u32) -> Option<Self> {
        if !crate::require("qemu") {
            return None;
        }
        let mut env = Self::golden_as(uid)?;
        let tap = env.home().join("tap");
        std::fs::create_dir(&tap).expect("a directory for the tap device");
        env.launcher = Launcher::user(uid, Some(&tap));
        Some(env)
    }

    /// Like [`Self::fake`], for an ordinary user, who also runs the guest's processes.
    #[track_caller]
    pub fn fake_as(uid: u32) -> Option<Self> {
        let mut env = Self::golden_as(uid)?;
        env.unconfined = true;
        env.configure(&format!("qemu_bin = \"{}\"\n", env.home().join("programs/fake-qemu").display()));
        for path in [env.layout.config.clone(), env.layout.config_file()] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("this is root");
        }
        env.launcher = Launcher::user(uid, None);
        Some(env)
    }

    #[track_caller]
    fn golden_as(uid: u32) -> Option<Self> {
        if !crate::require("root") || !crate::require("mount") {
            return None;
        }
        let golden = Golden::get()?;
        // Not below root's home, which others may not enter.
        let env = Self::empty_in(&std::env::temp_dir());
        golden.furnish_for(&env.layout, uid);
        let programs = env.home().join("programs");
        link_or_copy(bin_dir(), &programs).expect("programs that the user can reach");
        for dir in [env.home(), &env.home().join("home")] {
            std::os::unix::fs::chown(dir, Some(uid), Some(uid)).expect("this is root");
        }
        Some(env)
    }

    /// Creates an environment with the real kernel and image and the fake VMM: VMs are host processes that run the real
    /// agent.
    #[track_caller]
    pub fn fake() -> Option<Self> {
        let mut env = Self::with_golden()?;
        env.unconfined = true;
        env.configure(&format!("qemu_bin = \"{}\"\n", bin_dir().join("fake-qemu").display()));
        Some(env)
    }

    /// Like [`Self::fake`], with the fake Firecracker.
    #[track_caller]
    pub fn fake_firecracker() -> Option<Self> {
        let mut env = Self::with_golden()?;
        env.unconfined = true;
        let program = bin_dir().join("fake-firecracker");
        env.configure(&format!("vmm = \"firecracker\"\nfirecracker_bin = \"{}\"\n", program.display()));
        Some(env)
    }

    #[track_caller]
    fn with_golden() -> Option<Self> {
        let golden = Golden::get()?;
        let env = Self::empty();
        golden.furnish(&env.layout);
        Some(env)
    }

    /// Runs everything in a network namespace, which plays this host. Its VMs get an uplink into it.
    pub fn move_into(&mut self, netns: &NetNamespace) {
        self.launcher.netns = Some(netns.clone());
    }

    /// Makes every program started from here on see `file` at the path `over`.
    pub fn bind(&mut self, file: impl Into<PathBuf>, over: impl Into<PathBuf>) {
        self.launcher.binds.push((file.into(), over.into()));
    }

    /// The directory that `BANGER_HOME` names.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Paths of the home.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Writes the configuration file.
    #[track_caller]
    pub fn configure(&self, toml: &str) {
        std::fs::create_dir_all(&self.layout.config).expect("the configuration directory");
        std::fs::write(self.layout.config_file(), toml).expect("the configuration file");
    }

    /// Sets a variable of every program started from here on.
    pub fn set_variable(&mut self, key: &str, value: impl Into<OsString>) {
        self.variables.push((key.to_owned(), value.into()));
    }

    /// Appends to the configuration file, which a running daemon has read already.
    #[track_caller]
    pub fn configure_also(&self, toml: &str) {
        let before = std::fs::read_to_string(self.layout.config_file()).unwrap_or_default();
        self.configure(&format!("{before}{toml}"));
    }

    /// Prepares a run of `banger` with these arguments.
    pub fn banger(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Invocation {
        let dir = if self.launcher.user.is_some() { self.home().join("programs") } else { bin_dir().to_path_buf() };
        self.program(dir.join("banger")).args(args)
    }

    /// Whether its VMMs run without confinement, as fakes do.
    pub(crate) fn is_unconfined(&self) -> bool {
        self.unconfined
    }

    /// Prepares a run of another program in the same environment.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Invocation {
        let mut words = self.launcher.prefix();
        words.push(program.as_ref().to_owned());
        let invocation = Invocation::new(&words[0]).args(&words[1..]);
        let uplink = match (&self.launcher.netns, self.unconfined) {
            (Some(_), _) => "auto",
            (None, false) => "none",
            (None, true) => "off",
        };
        let mut invocation = invocation
            .env("BANGER_HOME", self.home())
            .env("HOME", self.home().join("home"))
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            // No test's traffic leaves this host; the fake VMM's guests are host processes without a NIC.
            .env("BANGER_UPLINK", uplink)
            .current_dir(self.home().join("home"));
        if self.unconfined {
            invocation = invocation.env("BANGER_VMM_CONFINEMENT", "off");
        }
        for (key, value) in &self.variables {
            invocation = invocation.env(key, value);
        }
        // Settings a host needs to reach its package registries.
        for (key, value) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name == "PATH" || name.to_ascii_lowercase().ends_with("_proxy") || name.starts_with("SSL_CERT_") {
                invocation = invocation.env(&name, value);
            }
        }
        invocation
    }

    /// `banger vm show NAME --json`.
    #[track_caller]
    pub fn vm(&self, name: &str) -> serde_json::Value {
        self.banger(["vm", "show", name, "--json"]).run().expect(0).json()
    }

    /// The state of a VM, as `vm show` has it.
    #[track_caller]
    pub fn vm_state(&self, name: &str) -> String {
        self.vm(name)["state"].as_str().expect("a state").to_owned()
    }

    /// Exit record of a VM's last machine, as written by its shim.
    #[track_caller]
    pub fn exit_cause(&self, name: &str) -> String {
        let id = self.vm(name)["id"].as_str().expect("an id").parse().expect("a valid one");
        let record = std::fs::read(self.layout.vm(&id).join("exit.json")).expect("an exit record");
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        record["cause"].as_str().expect("a cause").to_owned()
    }

    /// Waits until a VM is in a state.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str, deadline: Duration) {
        wait_until(deadline, &format!("{name} to be {state}"), || {
            let vm = self.vm(name);
            if vm["state"] == state { Ok(()) } else { Err(format!("{} ({})", vm["state"], vm["reason"])) }
        });
    }

    /// The process that a field of `vm show` (`vmm_pid`, `shim_pid`) names.
    #[track_caller]
    pub fn vm_process(&self, name: &str, field: &str) -> Identity {
        let vm = self.vm(name);
        let pid = vm[field].as_u64().unwrap_or_else(|| panic!("no {field} in {vm:#}"));
        Identity::of(u32::try_from(pid).expect("a pid")).unwrap_or_else(|| panic!("{field} {pid} is not alive: {vm:#}"))
    }

    /// Processes of this environment that run `program`.
    pub fn processes(&self, program: &str) -> Vec<Identity> {
        let is_program = |process: &Identity| {
            let argv0 = process.command.split(' ').next().unwrap_or_default();
            Path::new(argv0).file_name().is_some_and(|name| name == program)
        };
        marked_processes(self.home()).into_iter().filter(is_program).collect()
    }

    /// The daemon, while one runs.
    #[track_caller]
    pub fn daemon(&self) -> Option<Identity> {
        let mut daemons = self.processes("bangerd");
        // A program that the daemon starts has the daemon's command line between fork(2) and execve(2).
        let all: Vec<u32> = daemons.iter().map(|daemon| daemon.pid).collect();
        daemons.retain(|daemon| !daemon.parent().is_some_and(|parent| all.contains(&parent)));
        assert!(daemons.len() <= 1, "more than one daemon: {daemons:?}");
        daemons.pop()
    }

    /// Replaces everything volatile in an output by a word in brackets, for snapshots.
    pub fn filtered(&self, output: &Output) -> String {
        crate::filter::filtered(&output.to_string(), self.home())
    }

    /// Checks the end of a test that deleted all its VMs: after `daemon stop` no process, socket or VM directory is
    /// left.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        self.banger(["daemon", "stop"]).run().expect(0);
        wait_until(END, "the end of every process", || {
            let left = marked_processes(self.home());
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        });
        let left: Vec<PathBuf> =
            [self.layout.vms(), self.layout.run.clone()].iter().flat_map(|dir| walk(dir)).collect();
        let left: Vec<_> = left.iter().filter(|path| !path.is_dir() || path.starts_with(self.layout.vms())).collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Collects the daemon's log and every VM's console and shim log, for a failed test.
    fn evidence(&self) -> String {
        let mut text = String::new();
        let mut files = vec![self.layout.daemon_log()];
        files.extend(walk(&self.layout.vms()).into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains("console") || name.ends_with(".log") || name == "exit.json"
        }));
        for file in files {
            let bytes = std::fs::read(&file).unwrap_or_default();
            let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(6000)..]);
            // Guest output is not trusted with the terminal.
            let tail: String = tail.chars().filter(|char| *char == '\n' || !char.is_control()).collect();
            let _ = writeln!(text, "=== {} (its end)\n{tail}", file.display());
        }
        text
    }

    /// Ends every process of this environment, the daemon first so that it restarts nothing.
    fn end_processes(&self) -> Result<(), String> {
        let end = |processes: Vec<Identity>, signal: Signal| {
            for process in &processes {
                process.signal(signal);
            }
            std::panic::catch_unwind(|| processes.iter().for_each(|process| process.wait_gone(END))).is_ok()
        };
        if !end(self.processes("bangerd"), Signal::TERM) {
            end(self.processes("bangerd"), Signal::KILL);
        }
        end(marked_processes(self.home()), Signal::KILL);
        let left = marked_processes(self.home());
        if left.is_empty() { Ok(()) } else { Err(format!("processes that cannot be ended: {left:?}")) }
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.evidence());
        }
        let ended = self.end_processes();
        if failed && std::env::var_os("BANGER_TEST_KEEP").is_some() {
            self.home.disable_cleanup(true);
            eprintln!("kept: {}", self.home().display());
        }
        if !self.layout.run.starts_with(self.home()) {
            // If the path is too long for sockets, the run directory is elsewhere, named by a hash of this home.
            let _ = std::fs::remove_dir_all(&self.layout.run);
        }
        if let Err(error) = ended
            && !failed
        {
            panic!("{error}");
        }
    }
}

/// Links the programs of a directory into another, or copies them where linking is impossible.
fn link_or_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_file() && std::fs::hard_link(entry.path(), &target).is_err() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Directory for homes: on the file system of the golden home, so that its files can be linked.
fn base_dir() -> PathBuf {
    let base = crate::golden::cache_dir().join("t");
    std::fs::create_dir_all(&base).unwrap_or_else(|error| panic!("{}: {error}", base.display()));
    base
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Lists every file and directory below `dir`.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(walk(&entry.path()));
        }
    }
    found
}
