//! What ends a program with all it started.
//!
//! The kernel tells the end of this process to what it started itself, and to nobody that was started by that in turn; and
//! a signal is lost on who does not listen yet. So where there is something to be left behind, there is a line to this
//! process, a pipe whose other end nobody else has. Once that is closed, here or because this process is gone, all of it is
//! killed. Nobody tidies up: whose the files are deletes them, and whoever is killed at that is followed by another.

use super::{Program, ProgramError};
use rustix::process::Signal;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where a contained program finds the directory that is its own: a place that everybody may get to, as apt's user must.
pub const CONTAINED: &str = "/var/tmp";

/// Runs the program, and kills what is in its group once the line is closed, itself too.
const GROUPED: &str = r#"
exec 3<&0 </dev/null
{ read -r _; kill -KILL 0; } <&3 >/dev/null 2>&1 &
"$@" 3<&- &
wait "$!"
"#;

/// Runs the program with the directory it is in, in the place of another. It is the first in its namespace: nobody there
/// can kill it, and what is there with it is gone before it is. The directory goes by no name: who is root of other ids
/// than the user's may not get through what is above it.
const CONTAINING: &str = r#"
mount --no-canonicalize --bind . /var/tmp && cd / || exit
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
{ read -r _; kill -KILL -1; } <&3 >/dev/null 2>&1 &
wait "$program"
"#;
/// What the host mounts or unmounts is so in there too, and nothing of the other way round.
const NAMESPACES: [&str; 5] = ["--mount", "--propagation=slave", "--pid", "--fork", "--kill-child"];

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Containment {
    /// It is told to.
    Kernel,
    /// It is killed with all that is in its process group.
    Group,
    /// It is killed with all it started, wherever that went, and what it mounted goes.
    Namespaces,
}

impl Containment {
    /// What the process that is started here gets when this one ends.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Kernel => Signal::TERM,
            Self::Group | Self::Namespaces => Signal::KILL,
        }
    }

    /// Whether what runs the program has the line as its stdin.
    pub(super) fn has_line(self) -> bool {
        self != Self::Kernel
    }

    /// What runs `program`; the program's arguments follow.
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
