//! Confinement of the VMM: the files it may reach once it runs. These are its program and libraries, its firmware, and
//! this machine's kernel, initramfs and disks; nothing else.
//!
//! Two layers restrict files, each sufficient by itself. A private *root* ([`root`]) contains those files under names
//! that do not depend on the host, in private namespaces: no other process, socket or network exists there. *Landlock*
//! ([`landlock`]) enforces the same list as rules. In addition all capabilities are dropped ([`credentials`]), and a
//! *filter* ([`seccomp`]) refuses the system calls that no VMM needs.
//!
//! [`Rules`] is the list of files. A [`Confinement`] is that list prepared, so that entering it after fork needs no
//! allocation. A [`View`] maps host paths to the names the VMM finds them by. Where a host lacks a layer the others
//! still apply, and [`Confinement::missing`] says what is missing.

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

/// Environment variable of the daemon. Set to `off`, VMMs run unconfined: for the fake VMMs of the tests, which run
/// programs of the host. It is reported like any other missing part.
pub const SWITCH: &str = "BANGER_VMM_CONFINEMENT";

/// Access a VMM has to one file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Read, and list a directory.
    Read,
    /// Read and map as code: libraries.
    Library,
    /// Read and execute: the program and its loader.
    Execute,
    /// Read and write.
    Write,
    /// Read, write and ioctl: a device.
    Device,
    /// Create sockets in a directory.
    Sockets,
}

/// A file or directory that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Path on the host.
    path: PathBuf,
    /// Path in the VMM's private root.
    inside: PathBuf,
    reach: Reach,
}

/// The files a VMM may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    entries: Vec<Entry>,
}

impl Rules {
    /// Adds a file, or a directory with everything below it, under its own name. A missing one is skipped.
    pub fn allow(&mut self, path: impl Into<PathBuf>, reach: Reach) -> &mut Self {
        let path = path.into();
        self.allow_as(path.clone(), path, reach)
    }

    /// Adds a file or a directory under another name, which must be absolute.
    pub fn allow_as(&mut self, path: impl Into<PathBuf>, inside: impl Into<PathBuf>, reach: Reach) -> &mut Self {
        self.entries.push(Entry { path: path.into(), inside: inside.into(), reach });
        self
    }

    /// Adds a program and, if it is dynamically linked, its loader and library directories.
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

    /// Adds the files of a machine: its kernel, initramfs and disks. Their names are the same for every machine, so
    /// that the snapshot of one can be restored as another.
    pub(super) fn allow_machine(&mut self, plan: &LaunchPlan) -> &mut Self {
        self.allow_as(&plan.kernel.path, "/kernel", Reach::Read).allow_as(&plan.initramfs, "/initrd", Reach::Read);
        for (index, disk) in plan.disks.iter().enumerate() {
            let reach = if disk.read_only { Reach::Read } else { Reach::Write };
            self.allow_as(&disk.path, format!("/disk{index}"), reach);
        }
        self
    }

    /// Prepares the rules. With `namespaces` of `Ok` the confinement has namespaces and a root; an error is the reason
    /// why it has none.
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

/// Prepared rules. The default confines nothing.
#[derive(Debug, Default)]
pub(super) struct Confinement {
    /// Whether any confinement applies.
    pub(super) confined: bool,
    /// Namespaces and a root, where the host allows them.
    pub(super) root: Option<Root>,
    landlock: Option<OwnedFd>,
    /// Missing parts of the confinement, with the reasons.
    pub(super) missing: Vec<String>,
    names: Vec<(PathBuf, PathBuf)>,
}

impl Confinement {
    /// Restrictions that an older Landlock leaves to the filter alone. Namespaces make up for them where there are any.
    fn unsupported(&self, abi: i64) -> Option<String> {
        if self.root.is_some() { None } else { landlock::unsupported(abi) }
    }

    /// The names by which the VMM finds files.
    pub(super) fn view(&self) -> View {
        View { names: self.root.is_some().then(|| self.names.clone()) }
    }

    /// Applies Landlock to this thread and what it executes, irrevocably. Needs no-new-privileges. Does not allocate.
    pub(super) fn enter_landlock(&self) -> io::Result<()> {
        self.landlock.as_ref().map_or(Ok(()), landlock::enter)
    }
}

/// Maps paths of the host to the names by which a VMM finds the files.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Names in the private root; `None` where the VMM has the host's root.
    names: Option<Vec<(PathBuf, PathBuf)>>,
}

impl View {
    /// The VMM's name for a file of the host.
    pub fn path(&self, path: &Path) -> PathBuf {
        let found = self.names.iter().flatten().find(|(host, _)| host == path);
        found.map_or(path, |(_, inside)| inside).to_owned()
    }

    /// The VMM's name for an inherited descriptor, for options that take a path.
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
