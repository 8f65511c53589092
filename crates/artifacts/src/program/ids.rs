//! Subordinate ids of an ordinary user (`subuid(5)`): as many as a system has, which the user may give files to.
//!
//! Decides which range is used, and creates the user namespaces in which the range is mapped to the ids 0 and up. Root
//! in such a namespace has no power over the user's other files, unless the user is mapped to root.

use super::{Program, ProgramError, containment::found};
use crate::job::Cancel;
use rustix::{
    process::{getegid, geteuid, getgid},
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid, unshare_unsafe,
    },
};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Number of ids required: 0 to 65535, of which 65534 is nobody.
const COUNT: u32 = 65_536;
const PASSWD: &str = "/etc/passwd";
const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Why there are no usable subordinate ids.
#[derive(Debug, thiserror::Error)]
pub enum NoIds {
    /// The user has no range, or too short a one.
    #[error("user {0} has no range of {COUNT} subordinate ids in /etc/subuid and /etc/subgid")]
    Given(String),
    /// The system's user database cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

/// Ids of a user namespace to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    uid: u32,
    gid: u32,
    /// The user is mapped to root, and the subordinate ids to 1 and up.
    own: bool,
}

impl Ids {
    /// Finds the first range of this user that is large enough.
    pub fn subordinate() -> Result<Self, NoIds> {
        let read = |path: &str| match fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(NoIds::Read { path: path.into(), source }),
        };
        let uid = geteuid().as_raw().to_string();
        let passwd = read(PASSWD)?;
        let user = known(&passwd, &uid).map_or(&*uid, |(name, _)| name).to_owned();
        let [users, groups] = FILES.map(read);
        let first = |text: &str| range(text, &user, &uid).ok_or_else(|| NoIds::Given(user.clone()));
        Ok(Self { uid: first(&users?)?, gid: first(&groups?)?, own: false })
    }

    /// Maps the user to root, who then has power over files of the subordinate ids and over all of the user's own.
    #[must_use]
    pub fn under_own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Creates a user namespace with these ids.
    pub(super) fn space(&self, cancel: &Cancel) -> Result<OwnedFd, ProgramError> {
        let holder = Holder::start()?;
        let pid = holder.0.id();
        let own = (geteuid().as_raw(), getegid().as_raw());
        for (program, first, own) in [("newuidmap", self.uid, own.0), ("newgidmap", self.gid, own.1)] {
            let words = if self.own { vec![pid, 0, own, 1, 1, first, COUNT] } else { vec![pid, 0, first, COUNT] };
            let mapped = Program::new(program, "uidmap").args(words.iter().map(u32::to_string)).capture(0, cancel);
            mapped.map_err(explain)?;
        }
        let space = File::open(format!("/proc/{pid}/ns/user")).map_err(ProgramError::Namespace)?;
        Ok(space.into())
    }
}

/// Explains a common failure of `newuidmap`: for it, the same user in another group is another user, and its message
/// only has numbers.
fn explain(error: ProgramError) -> ProgramError {
    let ProgramError::Failed { program, .. } = &error else { return error };
    let here = getgid().as_raw();
    let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
    match known(&passwd, &geteuid().as_raw().to_string()) {
        Some((_, own)) if own != here => ProgramError::Group { program: program.clone(), own, here },
        _ => error,
    }
}

/// Makes the calling process, which has one thread, root in a namespace. Makes a few system calls and nothing else, as
/// is required between fork and exec.
pub(super) fn enter(space: impl AsFd) -> io::Result<()> {
    let (user, group) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::User))?;
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// Idle process in a new namespace, whose ids only another process can set. It ends with this process, which has the
/// other end of its stdin.
struct Holder(Child);

impl Holder {
    fn start() -> Result<Self, ProgramError> {
        let mut command = Command::new(found("cat", "coreutils")?);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: the hook makes one system call, and the memory and descriptors it would share go with the exec.
        unsafe {
            command.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWUSER)?));
        }
        command.spawn().map(Self).map_err(ProgramError::Namespace)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Finds name and group of `uid` in the text of `/etc/passwd`, which need not list every user.
fn known<'a>(passwd: &'a str, uid: &str) -> Option<(&'a str, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then_some((name, fields.next()?.parse().ok()?))
    })
}

/// Finds the start of the user's first range that is large enough in a text of `user:first:count` lines.
fn range(text: &str, user: &str, uid: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':').map(str::trim);
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((owner == user || owner == uid) && count >= COUNT).then_some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nme:x:1000:100::/home/me:/bin/sh\n";
        assert_eq!(known(passwd, "1000"), Some(("me", 100)));
        assert_eq!(known(passwd, "7"), None);
        for (text, first) in [
            ("you:1:65536\nme:100000:65536\n", Some(100_000)),
            ("1000:100000:65536", Some(100_000)),
            ("me:100000:1000\nme:200000:70000\n", Some(200_000)),
            ("me:100000:65535\n", None),
            ("you:100000:65536\n", None),
            ("me:100000\n", None),
            ("", None),
        ] {
            assert_eq!(range(text, "me", "1000"), first, "{text:?}");
        }
    }
}
