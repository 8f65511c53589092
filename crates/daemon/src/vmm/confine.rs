//! What a monitor may reach in the file system and the network, once it runs: its own program and libraries, its
//! firmware, this machine's kernel, initramfs and disks, and nothing else. It may connect nowhere.
//!
//! Landlock needs no privilege. Where the kernel lacks it the monitor runs without, and says so. It does not stop
//! connecting to unix sockets by path; a root of its own will.

#![expect(unsafe_code, reason = "the system call has no wrapper that can run between fork and exec")]

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Set to `off` in the daemon's environment, monitors run without Landlock: for one whose files stand in places that
/// cannot be told from its program. What it turns off is reported.
pub const SWITCH: &str = "BANGER_VMM_LANDLOCK";

/// The newest interface asked for; older kernels give the part they know.
const NEWEST: ABI = ABI::V6;

/// What a monitor may do with one file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Read, and below a directory list.
    Read,
    /// Read and execute: programs, the loader, libraries.
    Execute,
    /// Read, write, and for devices their controls.
    Write,
}

/// What a monitor may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    paths: Vec<(PathBuf, Reach)>,
}

impl Rules {
    /// Adds a file or a directory with everything below it; one that is not there is left out.
    pub fn allow(&mut self, path: impl Into<PathBuf>, reach: Reach) -> &mut Self {
        self.paths.push((path.into(), reach));
        self
    }

    /// Adds a dynamically linked program: itself, its loader and the directories its libraries come from.
    pub fn allow_program(&mut self, program: &Path) -> io::Result<&mut Self> {
        let program = fs::canonicalize(program)?;
        if let Some(loader) = interpreter(&program)? {
            self.allow(loader, Reach::Execute).allow("/etc/ld.so.cache", Reach::Read);
            for dir in library_dirs(&program) {
                self.allow(dir, Reach::Execute);
            }
        }
        Ok(self.allow(program, Reach::Execute))
    }

    /// Makes the rules ready to be entered. The kernel's objects are made here, so that entering needs no memory.
    pub fn build(&self) -> Confinement {
        if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
            return Confinement::Open { reason: format!("{SWITCH}=off") };
        }
        match self.ruleset() {
            Ok(Some(ruleset)) => Confinement::Landlock { ruleset },
            Ok(None) => Confinement::Open { reason: "this kernel has no Landlock".into() },
            Err(error) => Confinement::Open { reason: format!("Landlock refused the rules: {error}") },
        }
    }

    fn ruleset(&self) -> Result<Option<OwnedFd>, RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        for (path, reach) in &self.paths {
            let Ok(fd) = PathFd::new(path) else { continue };
            let is_dir = fs::metadata(path).is_ok_and(|file| file.is_dir());
            ruleset = ruleset.add_rule(PathBeneath::new(fd, access(*reach, is_dir)))?;
        }
        Ok(ruleset.into())
    }
}

fn access(reach: Reach, is_dir: bool) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let access = match reach {
        Reach::Read => read,
        Reach::Execute => read | AccessFs::Execute,
        Reach::Write => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
    };
    if is_dir { access } else { access & AccessFs::from_file(NEWEST) }
}

/// Rules that are ready.
#[derive(Debug)]
pub enum Confinement {
    /// To be entered.
    Landlock {
        /// The kernel's object.
        ruleset: OwnedFd,
    },
    /// There is nothing to enter.
    Open {
        /// Why.
        reason: String,
    },
}

impl Confinement {
    /// Why there is none; `None` when there is.
    pub fn absent(&self) -> Option<&str> {
        match self {
            Self::Landlock { .. } => None,
            Self::Open { reason } => Some(reason),
        }
    }

    /// Confines this thread and what it executes, for good. Needs no-new-privileges. Allocates nothing.
    pub(super) fn enter(&self) -> io::Result<()> {
        let Self::Landlock { ruleset } = self else { return Ok(()) };
        // SAFETY: landlock_restrict_self(2) takes a descriptor and flags, and touches no memory.
        let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Directories a program's libraries may come from, of those that exist: the architecture's own where there are such
/// (Debian), else the system's; and those beside a program that was not installed with the system.
fn library_dirs(program: &Path) -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let system = ["/usr/lib", "/lib"].map(PathBuf::from);
    let own: Vec<PathBuf> = system.iter().map(|dir| dir.join(&triplet)).filter(|dir| dir.is_dir()).collect();
    let mut dirs = if own.is_empty() { system.to_vec() } else { own };
    dirs.extend(["/usr/lib64", "/lib64"].map(PathBuf::from));
    if let Some(prefix) = program.parent().and_then(Path::parent).filter(|prefix| *prefix != Path::new("/usr")) {
        dirs.extend(["lib", "lib64"].map(|name| prefix.join(name)));
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// The loader an ELF program names (`PT_INTERP`); `None` for a static program or one that is no 64-bit little-endian ELF.
fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    const PT_INTERP: u32 = 3;
    const LOOKED_AT: u64 = 64 << 10;
    let mut bytes = Vec::new();
    File::open(program)?.take(LOOKED_AT).read_to_end(&mut bytes)?;
    let number = |at: usize, length: usize| {
        let field = bytes.get(at..at.checked_add(length)?)?;
        Some(field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let place = |at: usize| number(at, 8).and_then(|place| usize::try_from(place).ok());
    let find = || {
        let elf_64_little = bytes.len() >= HEADER && bytes.starts_with(b"\x7fELF\x02\x01");
        let (table, count) = (place(32).filter(|_| elf_64_little)?, number(56, 2)?);
        let mut headers =
            (0..count).filter_map(|index| table.checked_add(PROGRAM_HEADER.checked_mul(usize::try_from(index).ok()?)?));
        let header = headers.find(|at| number(*at, 4) == Some(u64::from(PT_INTERP)))?;
        let (offset, size) = (place(header.checked_add(8)?)?, place(header.checked_add(32)?)?);
        let name = bytes.get(offset..offset.checked_add(size)?)?;
        std::str::from_utf8(name.strip_suffix(b"\0")?).ok().map(PathBuf::from)
    };
    Ok(find())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    #[test]
    fn the_loader_of_a_program_is_read_and_nothing_of_a_script() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let loader = interpreter(&shell).unwrap().unwrap();
        assert!(loader.is_absolute() && loader.exists(), "{}", loader.display());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        for content in [&b"#!/bin/sh\n"[..], b"", b"\x7fELF\x02\x01", &[&b"\x7fELF\x02\x01"[..], &[0xff; 100]].concat()]
        {
            fs::write(&path, content).unwrap();
            assert_eq!(interpreter(&path).unwrap(), None);
        }
    }

    #[test]
    fn a_confined_program_runs_and_reaches_only_what_was_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
        fs::write(&open, "seen").unwrap();
        fs::write(&closed, "seen").unwrap();
        let cat = Path::new("/bin/cat");
        let mut rules = Rules::default();
        rules.allow_program(cat).unwrap().allow(&open, Reach::Read).allow(dir.path().join("absent"), Reach::Read);
        let run = |file: &Path| {
            let confinement = rules.build();
            if let Some(reason) = confinement.absent() {
                eprintln!("SKIP: {reason}");
                return None;
            }
            let mut command = Command::new(cat);
            command.arg(file);
            let enter = move || {
                rustix::thread::set_no_new_privs(true)?;
                confinement.enter()
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
