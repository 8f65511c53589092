//! Network namespaces in which closures and programs run: a test's own internet, LAN and host.

#![expect(unsafe_code, reason = "unshare")]

use rustix::{
    fs::{Mode, OFlags, open},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Command, Stdio},
    sync::Arc,
};

/// A network namespace. Clones share it; it ends with the last clone and the last process in it.
#[derive(Debug, Clone)]
pub struct NetNamespace(Arc<OwnedFd>);

impl Default for NetNamespace {
    fn default() -> Self {
        Self::new()
    }
}

impl NetNamespace {
    /// Creates a namespace with nothing but a loopback that is down.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: the thread shares its descriptors with the others still.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network namespace");
            Self::open("/proc/thread-self/ns/net").expect("its own")
        });
        made.join().expect("the thread does not panic")
    }

    /// Opens the namespace of a process.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        Self::of_any(pid).expect("a network namespace")
    }

    /// Opens the namespace of a process; `None` if the process has ended.
    pub fn of_any(pid: u32) -> Option<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    /// Path of the namespace, valid while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn open(path: &str) -> Option<Self> {
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok().map(|netns| Self(Arc::new(netns)))
    }

    /// Runs a closure in the namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread in the namespace.
    pub fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let netns = self.clone();
        std::thread::spawn(move || {
            move_into_link_name_space(netns.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the way into a namespace");
            work()
        })
    }

    /// Runs a program in the namespace and returns its stdout.
    #[track_caller]
    pub fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (status, text, errors) = self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().expect("a program");
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            (output.status, text(&output.stdout), text(&output.stderr))
        });
        assert!(status.success(), "{line}: {errors}");
        text
    }

    /// Sets the alias of a link, which names its owner.
    #[track_caller]
    pub fn write_on(&self, link: &str, alias: &str) {
        let words = ["link", "set", "dev", link, "alias", alias].map(str::to_owned);
        let status = self.run(move || Command::new("ip").args(words).status());
        assert!(status.is_ok_and(|status| status.success()), "{link}: {alias}");
    }

    /// Runs several programs, one per line.
    #[track_caller]
    pub fn commands(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.command(line);
        }
    }
}
