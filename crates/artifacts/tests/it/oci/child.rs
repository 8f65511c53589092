//! Child process that works on a store and that a test may kill at any step, identified by its progress.

#![expect(clippy::unwrap_used, reason = "what the tests share panics as they do")]

use super::registry::{Host, chain, names};
use banger_artifacts::{
    image::{Catalog, DebianRecipe},
    job::{Cancel, Job, Part, PartState, Progress},
};
use banger_proto::name::ImageId;
use banger_testkit::Launcher;
use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Path of the bundle it writes.
pub(super) const BUNDLE: &str = "out/app.tar.zst";
/// Directory it looks for programs in first.
pub(super) const PROGRAMS: &str = "programs";

/// Prefix of the step at which the work is cancelled.
pub(super) const CANCEL: &str = "cancel ";

/// Progress that prints a line at the step it is told to stop at, and then blocks or cancels the work.
struct StopAt {
    step: String,
    cancel: Cancel,
}

impl Progress for StopAt {
    fn phase(&self, what: &str) {
        if let Some(step) = self.step.strip_prefix(CANCEL) {
            if what.contains(step) {
                self.cancel.cancel();
            }
        } else if !self.step.is_empty() && what.contains(&self.step) {
            print_line("stopped");
            loop {
                std::thread::park();
            }
        }
    }

    fn advance(&self, _: u64, _: Option<u64>) {
        self.phase("written");
    }

    fn part(&self, part: &Part<'_>) {
        if part.state == PartState::Coming && part.done > 0 && part.done < part.total {
            self.phase("halfway");
        }
    }
}

/// Prints past the test harness, which captures the output of tests.
fn print_line(line: &str) {
    let mut stdout = fs::File::from(io::stdout().as_fd().try_clone_to_owned().unwrap());
    stdout.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
}

/// Not a test by itself: other tests start it as a process that they may kill.
#[test]
fn child() {
    let Ok(work) = std::env::var("BANGER_TEST_PULL") else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let host = Host::within(Path::new(&var("BANGER_TEST_ROOT")));
    let progress = StopAt { step: var("BANGER_TEST_STOP"), cancel: host.cancel.clone() };
    let job = Job { progress: &progress, cancel: &host.cancel };
    let made = match work.split_once(' ') {
        Some(("promote", id)) => host.store.promote(&id.parse().unwrap(), &job),
        Some(("bundle", id)) => {
            let id = id.parse().unwrap();
            let output = host.dir.path().join(BUNDLE);
            host.store.bundle(&id, &output, &job).and_then(|_| host.store.get(&id))
        }
        Some(("build", suite)) => {
            let recipe = DebianRecipe::new(suite, Vec::new()).unwrap();
            host.store.build_debian(&"small".parse().unwrap(), &recipe, None, &job)
        }
        Some(("catalog", path)) => {
            let catalog = Catalog::read(Path::new(path)).unwrap();
            host.store.pull(&catalog.entries()[0], &host.registries, &|_: &ImageId| Ok(false), &job)
        }
        None if work == "prune" => {
            let pruned = host.registries.cache.prune(false, &host.cancel).unwrap();
            print_line(&format!("pruned {}", pruned.blobs));
            return;
        }
        _ => host.pull_watched(&work, &progress).map(|pulled| pulled.image),
    };
    match made {
        Ok(image) => print_line(&format!("done {}", image.manifest.id)),
        Err(error) if error.is_cancelled() => print_line("cancelled"),
        Err(error) => panic!("{}", chain(&error)),
    }
}

/// Child process that is killed with the test.
pub(super) struct Work(Child);

impl Work {
    /// Returns the next line it prints; `None` if it ends instead.
    pub(super) fn next_line(&mut self) -> Option<String> {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
    }

    /// Waits for its end, which must be a success.
    pub(super) fn assert_success(&mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process that keeps everything in `root`, does `work` and stops at the step `stop`, if that is not empty.
/// Its work is a source to pull, `promote ID`, `bundle ID`, `build SUITE`, `prune` of the cache, or `catalog FILE`, to
/// pull the first entry of.
pub(super) fn start(root: &Path, work: &str, stop: &str) -> Work {
    start_by(&Launcher::default(), &std::env::current_exe().unwrap(), root, work, stop)
}

/// Starts it as another user, or with other files than this host's, from a copy of this program.
pub(super) fn start_by(launcher: &Launcher, program: &Path, root: &Path, work: &str, stop: &str) -> Work {
    let mut words: Vec<OsString> = launcher.prefix();
    words.push(program.into());
    let path = format!("{}:{}", root.join(PROGRAMS).display(), std::env::var("PATH").unwrap());
    let child = Command::new(&words[0])
        .args(&words[1..])
        .args(["--exact", "oci::child::child", "--nocapture", "--test-threads=1"])
        .env("BANGER_TEST_PULL", work)
        .env("BANGER_TEST_ROOT", root)
        .env("BANGER_TEST_STOP", stop)
        .env("PATH", path)
        .env("TMPDIR", root)
        .stdout(Stdio::piped())
        .spawn();
    Work(child.unwrap())
}

/// Returns the names in a directory, including hidden ones, without locks: a killed holder's file excludes nobody.
pub(super) fn stored(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| !name.starts_with(".lock-")).collect()
}
