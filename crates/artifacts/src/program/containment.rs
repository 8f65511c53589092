//! Ends a program together with everything it started.
//!
//! The kernel signals the end of this process to its direct children only, not to their descendants, and a signal is
//! lost on a child that is not ready for it yet. So where something could be left behind, the program gets a pipe whose
//! other end only this process holds. Once that end is closed, by this process or because it is gone, everything is
//! killed. Files are not cleaned up here: their owner deletes them, and if the owner is killed too, the next process
//! does.

use super::{Program, ProgramError};
use rustix::process::Signal;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Path at which a contained program finds its own directory. Everybody may enter it, as apt's user must.
pub const CONTAINED: &str = "/var/tmp";

/// Shell script that runs the program and kills its whole process group, itself included, once the pipe is closed.
const GROUPED: &str = r#"
exec 3<&0 </dev/null
{ read -r _; kill -KILL 0; } <&3 >/dev/null 2>&1 &
"$@" 3<&- &
wait "$!"
"#;

/// Shell script that mounts the working directory at [`CONTAINED`] and runs the program. The shell is pid 1 of its
/// namespace: nobody in there can kill it, and everything in there is gone before it is. It names the directory `.`,
/// because root of other ids than the user's may not be able to pass the directories above it.
const CONTAINING: &str = r#"
mount --no-canonicalize --bind . /var/tmp && cd / || exit
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
{ read -r _; kill -KILL -1; } <&3 >/dev/null 2>&1 &
wait "$program"
"#;
/// Arguments of `unshare`. Mounts and unmounts of the host propagate into the namespace and never back.
const NAMESPACES: [&str; 5] = ["--mount", "--propagation=slave", "--pid", "--fork", "--kill-child"];

/// How a program is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Containment {
    /// The program alone is signaled.
    Kernel,
    /// Its process group is killed.
    Group,
    /// Everything it started is killed, in whatever group it is, and its mounts go.
    Namespaces,
}

impl Containment {
    /// Signal that the direct child gets when this process ends.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Kernel => Signal::TERM,
            Self::Group | Self::Namespaces => Signal::KILL,
        }
    }

    /// Whether the shell that runs the program has the pipe as its stdin.
    pub(super) fn has_line(self) -> bool {
        self != Self::Kernel
    }

    /// Returns the command that runs `program`; the caller adds the program's arguments.
    pub(super) fn command(self, program: &Path) -> Result<Command, ProgramError> {
        let (mut command, script) = match self {
            Self::Kernel => return Ok(Command::new(program)),
            Self::Group => (Command::new(found("sh", "dash")?), GROUPED),
            Self::Namespaces => {
                found("mount", "mount")?;
                let mut command = Command::new(found("unshare", "util-linux")?);
                command.args(NAMESPACES).arg("--").arg(found("sh", "dash")?);
                (command, CONTAINING)
            }
        };
        command.args(["-c", script, "containment"]).arg(program);
        Ok(command)
    }
}

pub(super) fn found(name: &str, package: &'static str) -> Result<PathBuf, ProgramError> {
    Program::find(name).ok_or_else(|| ProgramError::Missing { program: name.to_owned(), package })
}
