//! What a monitor may reach once it runs: its own program and libraries, its firmware, this machine's kernel, initramfs
//! and disks, and nothing else.
//!
//! Two layers, each enough by itself for what is in files. A *root* of its own ([`root`]) holds those files at names that do
//! not depend on the host, in namespaces of its own: no other process, no socket, no network exists there. *Landlock*
//! ([`landlock`]) says the same by rule. Beside them no capability is left ([`credentials`]), and a *filter*
//! ([`seccomp`]) refuses the system calls no monitor needs.
//!
//! The list of files is [`Rules`]; a [`Confinement`] is that list made ready, so that entering it after fork needs no
//! memory; a [`View`] tells a monitor by which name it finds a file. Where a host lacks a layer the rest applies, and
//! [`Confinement::missing`] says what is missing.

pub(super) mod credentials;
mod landlock;
mod program;
pub(super) mod root;
pub(super) mod seccomp;

use super::plan::LaunchPlan;
use root::Root;
use std::{
    fs, io,
    os::fd::{OwnedFd, RawFd},
    path::{Path, PathBuf},
};

/// Set to `off` in the daemon's environment, monitors run unconfined: for the tests' fake monitors, which run programs
/// of the host. It is reported like any other lack.
pub const SWITCH: &str = "BANGER_VMM_CONFINEMENT";

/// What a monitor may do with one file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Read, and below a directory list.
    Read,
    /// Read and map as code: libraries.
    Library,
    /// Read and execute: the program and its loader.
    Execute,
    /// Read and write.
    Write,
    /// A device: read, write, and its controls.
    Device,
    /// A directory to make sockets in.
    Sockets,
}

/// One thing that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Where it is.
    path: PathBuf,
    /// Where it is in the monitor's own root.
    inside: PathBuf,
    reach: Reach,
}

/// What a monitor may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    entries: Vec<Entry>,
}

impl Rules {
    /// Adds a file or a directory with everything below it, under its own name; one that is not there is left out.
    pub fn allow(&mut self, path: impl Into<PathBuf>, reach: Reach) -> &mut Self {
        let path = path.into();
        self.allow_as(path.clone(), path, reach)
    }

    /// Adds a file or a directory under another name, which must be absolute.
    pub fn allow_as(&mut self, path: impl Into<PathBuf>, inside: impl Into<PathBuf>, reach: Reach) -> &mut Self {
        self.entries.push(Entry { path: path.into(), inside: inside.into(), reach });
        self
    }

    /// Adds a program: itself, and, if it is dynamically linked, its loader and the directories its libraries come from.
    pub fn allow_program(&mut self, program: &Path) -> io::Result<&mut Self> {
        let program = fs::canonicalize(program)?;
        if let Some(loader) = program::interpreter(&program)? {
            self.allow("/etc/ld.so.cache", Reach::Read);
            for dir in program::library_dirs(&program) {
                self.allow(dir, Reach::Library);
            }
            self.allow(loader, Reach::Execute);
        }
        Ok(self.allow(program, Reach::Execute))
    }

    /// Adds what every monitor gets of a machine: its kernel, its initramfs, its disks. Their names are the same for every
    /// machine, so that a snapshot of one can be restored as another.
    pub(super) fn allow_machine(&mut self, plan: &LaunchPlan) -> &mut Self {
        self.allow_as(&plan.kernel.path, "/kernel", Reach::Read).allow_as(&plan.initramfs, "/initrd", Reach::Read);
        for (index, disk) in plan.disks.iter().enumerate() {
            let reach = if disk.read_only { Reach::Read } else { Reach::Write };
            self.allow_as(&disk.path, format!("/disk{index}"), reach);
        }
        self
    }

    /// Makes the rules ready to be entered. `namespaces` asks for namespaces and a root; else it is the reason why there are
    /// none.
    pub(super) fn build(&self, namespaces: Result<(), String>) -> io::Result<Confinement> {
        if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
            return Ok(Confinement { missing: vec![format!("{SWITCH}=off")], ..Confinement::default() });
        }
        let mut confinement = Confinement { confined: true, ..Confinement::default() };
        match namespaces {
            Ok(()) => confinement.root = Some(Root::prepare(&self.entries)?),
            Err(reason) => confinement.missing.push(reason),
        }
        match landlock::ruleset(&self.entries) {
            Ok(Some(ruleset)) => {
                confinement.landlock = Some(ruleset);
                confinement.missing.extend(confinement.unsupported(landlock::abi_version()));
            }
            Ok(None) => confinement.missing.push("this kernel has no Landlock".into()),
            Err(error) => confinement.missing.push(format!("Landlock refused the rules: {error}")),
        }
        confinement.names = self.entries.iter().map(|entry| (entry.path.clone(), entry.inside.clone())).collect();
        Ok(confinement)
    }
}

/// Rules that are ready. The default confines nothing.
#[derive(Debug, Default)]
pub(super) struct Confinement {
    /// Whether anything is done at all.
    pub(super) confined: bool,
    /// Namespaces and a root, where the host allows them.
    pub(super) root: Option<Root>,
    landlock: Option<OwnedFd>,
    /// What of it is missing here, and why.
    pub(super) missing: Vec<String>,
    names: Vec<(PathBuf, PathBuf)>,
}

impl Confinement {
    /// What an older Landlock leaves to the filter alone. Namespaces stand in for it where there are such.
    fn unsupported(&self, abi: i64) -> Option<String> {
        if self.root.is_some() { None } else { landlock::unsupported(abi) }
    }

    /// How the monitor sees the files.
    pub(super) fn view(&self) -> View {
        View { names: self.root.is_some().then(|| self.names.clone()) }
    }

    /// Applies Landlock to this thread and what it executes, for good. Needs no-new-privileges. Allocates nothing.
    pub(super) fn enter_landlock(&self) -> io::Result<()> {
        self.landlock.as_ref().map_or(Ok(()), landlock::enter)
    }
}

/// By which names a monitor finds what it was given.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Names in a root of its own; `None` where it has the host's.
    names: Option<Vec<(PathBuf, PathBuf)>>,
}

impl View {
    /// The monitor's name of a file of the host.
    pub fn path(&self, path: &Path) -> PathBuf {
        let found = self.names.iter().flatten().find(|(host, _)| host == path);
        found.map_or(path, |(_, inside)| inside).to_owned()
    }

    /// The monitor's name of a descriptor it inherits, for what wants a path.
    pub fn descriptor(&self, fd: RawFd) -> PathBuf {
        let dir = if self.names.is_some() { root::DESCRIPTORS } else { "/proc/self/fd" };
        Path::new(dir).join(fd.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    #[test]
    fn names_are_those_of_the_root_where_there_is_one() {
        let mut rules = Rules::default();
        rules.allow_as("/home/u/vmlinux", "/kernel", Reach::Read).allow("/dev/null", Reach::Device);
        let names =
            |view: &View| (view.path("/home/u/vmlinux".as_ref()), view.path("/dev/null".as_ref()), view.descriptor(7));
        let apart = rules.build(Ok(())).unwrap().view();
        assert_eq!(names(&apart), ("/kernel".into(), "/dev/null".into(), "/fd/7".into()));
        let beside = rules.build(Err("none".into())).unwrap();
        assert_eq!(beside.missing.first().map(String::as_str), Some("none"));
        assert_eq!(names(&beside.view()), ("/home/u/vmlinux".into(), "/dev/null".into(), "/proc/self/fd/7".into()));
    }

    #[test]
    fn an_old_landlock_is_a_lack_where_nothing_stands_in_for_it() {
        let rules = Rules::default();
        let lacks = |apart| rules.build(apart).unwrap().unsupported(4).is_some();
        assert!(lacks(Err("none".into())) && !lacks(Ok(())));
    }

    #[test]
    #[expect(unsafe_code, reason = "Landlock is entered between fork and exec")]
    fn landlock_alone_reaches_only_what_was_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
        fs::write(&open, "seen").unwrap();
        fs::write(&closed, "seen").unwrap();
        let cat = Path::new("/bin/cat");
        let mut rules = Rules::default();
        rules.allow_program(cat).unwrap().allow(&open, Reach::Read).allow(dir.path().join("absent"), Reach::Read);
        let run = |file: &Path| {
            let confinement = rules.build(Err("not apart".into())).unwrap();
            if confinement.landlock.is_none() {
                eprintln!("SKIP: {:?}", confinement.missing);
                return None;
            }
            let mut command = Command::new(cat);
            command.arg(file);
            let enter = move || {
                rustix::thread::set_no_new_privs(true)?;
                confinement.enter_landlock()
            };
            // SAFETY: two system calls, no allocation.
            unsafe { command.pre_exec(enter) };
            Some(command.output().unwrap())
        };
        let (Some(seen), Some(refused)) = (run(&open), run(&closed)) else { return };
        assert_eq!((seen.status.success(), seen.stdout.as_slice()), (true, &b"seen"[..]), "{seen:?}");
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    }
}
