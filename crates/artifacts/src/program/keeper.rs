//! What becomes of a program, and of all it started, when this process is killed.
//!
//! The kernel tells the end of this process to what it started itself, and to nobody that was started by that in turn. So
//! where there is something to be left behind, something stands in between: what hears it and sees to the others.

use super::{Program, ProgramError};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where a contained program finds the directory that is its own: a place that everybody may get to, as apt's user must.
pub const CONTAINED: &str = "/var/tmp";

/// Runs the program, and waits for it. Told to end, or of the end of who started it, it tells the program, kills everything
/// else in the program's group (what is the first in a namespace would not hear of less), and reads what the program says
/// while it tidies up, which would die of a pipe that nobody reads. Told again it only reads: what is in the group by then
/// tidies up. What is told to the whole group is not for it.
const TIDIED: &str = r#"
told=
program=
others() {
    for stat in /proc/[0-9]*/stat; do
        read -r line <"$stat" || continue
        pid=${stat#/proc/}
        pid=${pid%/stat}
        set -- ${line##*) }
        case $pid in "$$" | "$program") continue ;; esac
        [ "$3" != "$$" ] || kill -KILL "$pid"
    done 2>/dev/null
}
exec 3</proc/self/fd/2
trap '[ -n "$told" ] || { told=yes; kill -TERM "$program"; others; }; cat <&3 >/dev/null 2>&1 &' USR1
trap : TERM HUP
"$@" 3<&- &
program=$!
[ -z "$told" ] || kill -TERM "$program"
wait "$program"
status=$?
while kill -0 "$program" 2>/dev/null; do
    wait "$program"
    status=$?
done
[ -z "$told" ] || kill -KILL 0
exit "$status"
"#;

/// Runs the program with a directory of its own in the place of another. It is the first in its namespace: what is there
/// with it ends with it. As such it hears only what it listens to.
const CONTAINING: &str = r#"
trap 'exit 143' TERM
mount --bind "$0" /var/tmp || exit
"$@" &
wait "$!"
"#;
/// What the host mounts or unmounts is so in there too, and nothing of the other way round.
const NAMESPACES: [&str; 5] = ["--mount", "--propagation=slave", "--pid", "--fork", "--kill-child"];

/// How a program ends when this process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keeper {
    /// It is told to, by itself.
    Kernel,
    /// It is told to, and tidies up; all it started is killed.
    Shell,
    /// It is killed with all it started, wherever that went, and what it mounted goes. It has a directory at
    /// [`CONTAINED`].
    Namespaces(PathBuf),
}

impl Keeper {
    /// What the process that is started here gets when this one ends.
    pub(super) fn signal(&self) -> Signal {
        match self {
            Self::Kernel => Signal::TERM,
            Self::Shell => Signal::USR1,
            Self::Namespaces(_) => Signal::KILL,
        }
    }

    /// Tells the program that was started as this group to end, and all that it started.
    pub(super) fn end(&self, group: Pid) -> rustix::io::Result<()> {
        match self {
            // It tells the others, or makes them end.
            Self::Shell => kill_process(group, self.signal()),
            Self::Kernel | Self::Namespaces(_) => kill_process_group(group, Signal::TERM),
        }
    }

    /// What runs `program`; the program's arguments follow.
    pub(super) fn command(&self, program: &Path) -> Result<Command, ProgramError> {
        // The name a shell goes by is the first of its script's arguments.
        let (mut command, script, name) = match self {
            Self::Kernel => return Ok(Command::new(program)),
            Self::Shell => (Command::new(found("sh", "dash")?), TIDIED, Path::new("keeper")),
            Self::Namespaces(directory) => {
                let mut command = Command::new(found("unshare", "util-linux")?);
                command.args(NAMESPACES).arg("--").arg(found("sh", "dash")?);
                (command, CONTAINING, directory.as_path())
            }
        };
        command.args(["-c", script]).arg(name).arg(program);
        Ok(command)
    }
}

fn found(name: &str, package: &'static str) -> Result<PathBuf, ProgramError> {
    Program::find(name).ok_or_else(|| ProgramError::Missing { program: name.to_owned(), package })
}
