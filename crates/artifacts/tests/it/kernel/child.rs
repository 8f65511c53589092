//! Work on a kernel in a process of its own, which can be stopped at a step, killed there, and asked what it took.

use super::{bundle::name, fixture::Host};
use banger_artifacts::{
    job::{Cancel, Job, Progress, Silent},
    kernel::{BzImage, Catalog, Description, KernelStore},
};
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// Progress that says when the step it waits for begins, and goes on when it is told to.
struct StopAt(String);

impl Progress for StopAt {
    fn phase(&self, what: &str) {
        if what.contains(&self.0) {
            say("stopped");
            io::stdin().read_line(&mut String::new()).unwrap();
        }
    }

    fn advance(&self, done: u64, _: Option<u64>) {
        if self.0 == "halfway" && done > 0 {
            self.phase("halfway");
        }
    }
}

/// Past the test harness, which keeps what tests print.
fn say(line: &str) {
    let mut out = fs::File::options().write(true).open("/proc/self/fd/1").unwrap();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
}

/// Not a test by itself: the others start it as a process that they may kill.
#[test]
fn child() {
    let Ok(task) = std::env::var("BANGER_TEST_CHILD") else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let root = PathBuf::from(var("BANGER_TEST_ROOT"));
    let store = KernelStore::open(&root.join("kernels"), &root.join("cache")).unwrap();
    let (stop, cancel) = (StopAt(var("BANGER_TEST_STOP")), Cancel::default());
    let job = Job { progress: if stop.0.is_empty() { &Silent } else { &stop }, cancel: &cancel };
    match task.split_once(' ').unwrap_or((&task, "")) {
        ("pull", _) => {
            let catalog = Catalog::read(&root.join("catalog.json")).unwrap();
            store.pull(&name(), &catalog, true, &job).unwrap();
        }
        ("import", from) => {
            store.import(&name(), Path::new(from), &Description::default(), true, &job).unwrap();
        }
        ("unpack", from) => {
            BzImage::open(fs::File::open(from).unwrap()).unwrap().unpack(&mut io::sink(), &cancel).unwrap();
        }
        other => panic!("{other:?}"),
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    say(&format!("done {}", peak.trim_end_matches("kB").trim()));
}

/// A running child; killed when dropped.
pub(super) struct Child(std::process::Child);

impl Child {
    /// Does `task` in the host's directories until its progress contains `stop`, with `programs` found before the
    /// host's.
    pub(super) fn start(host: &Host, task: &str, stop: &str, programs: Option<&Path>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(programs.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path)));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kernel::child::child", "--nocapture", "--test-threads=1"])
            .env("BANGER_TEST_CHILD", task)
            .env("BANGER_TEST_ROOT", host.temp.path())
            .env("BANGER_TEST_STOP", stop)
            .env("PATH", path.unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// Waits until it has stopped where it should.
    pub(super) fn stopped(mut self, why: &str) -> Self {
        assert_eq!(self.heard().as_deref(), Some("stopped"), "{why}");
        self
    }

    /// Waits for its end, which has to be a good one; the most memory it had, in KiB.
    pub(super) fn done(mut self, why: &str) -> u64 {
        let said = self.heard();
        assert!(self.0.wait().unwrap().success(), "{why}: {said:?}");
        said.as_deref().and_then(|said| said.strip_prefix("done ")?.trim().parse().ok()).expect(why)
    }

    /// The next thing it says; `None` when it ends instead.
    fn heard(&mut self) -> Option<String> {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
    }

    /// Lets it go on.
    pub(super) fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Kills it, wherever it is.
    pub(super) fn kill(mut self) -> ExitStatus {
        self.0.kill().unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
