//! Runs the system's ssh client with everything it needs on the command line, so that no configuration of the user has
//! to change.

use super::{access::DOMAIN, config};
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
};
use std::{
    ffi::{OsStr, OsString},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Writes banger's own ssh configuration file, and returns its path.
pub(crate) fn write_config(layout: &Layout) -> Result<PathBuf, Failure> {
    let text = config::render(layout, &current_program()?, std::env::var_os("BANGER_HOME").as_deref())?;
    let path = layout.ssh_config();
    let failed = |error: std::io::Error| {
        Failure::caused_by(Code::Unavailable, format!("cannot write {}", path.display()), &error)
    };
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(path);
    }
    let dir = layout.ssh();
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(&dir)
        .map_err(failed)?;
    let mut file = tempfile::Builder::new().prefix(".config-").tempfile_in(&dir).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

/// Returns the path of this program.
pub(crate) fn current_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::caused_by(Code::Internal, "cannot tell where this program is", &error))
}

/// Options of ssh(1) that take a value.
const VALUED: &[u8] = b"BbcDEeFIiJLlmOoPpQRSWw";

/// Returns the user to log in as, if the VM has one with a name: ssh knows no numeric users. `args` may name another.
pub(crate) fn login<'a>(user: Option<&'a str>, args: &[OsString]) -> Option<&'a str> {
    let name = user?.split(':').next()?;
    (name.parse::<u32>().is_err() && !names_user(args)).then_some(name)
}

/// Whether ssh's own options name a user. They end at the first argument that is none, with which the command begins.
fn names_user(args: &[OsString]) -> bool {
    let mut words = args.iter().map(|arg| arg.as_encoded_bytes());
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix(b"-").filter(|letters| !letters.is_empty() && *letters != b"-") else {
            return false;
        };
        // One argument may hold several options; the first with a value takes the rest of it, or the next argument.
        let Some(at) = letters.iter().position(|letter| VALUED.contains(letter)) else { continue };
        let (option, rest) = (letters[at], &letters[at + 1..]);
        let value = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
        let key = value.trim_ascii_start().split(|byte| b"= \t".contains(byte)).next().unwrap_or_default();
        if option == b'l' || option == b'o' && key.eq_ignore_ascii_case(b"user") {
            return true;
        }
    }
    false
}

/// Replaces this process by ssh. `args` are everything after the VM's name. Returns only on failure.
pub(crate) fn become_ssh(config: &Path, vm: &str, user: Option<&str>, args: &[OsString]) -> Failure {
    let mut ssh = Command::new("ssh");
    ssh.args([OsStr::new("-F"), config.as_os_str()]);
    if let Some(user) = login(user, args) {
        ssh.args(["-l", user]);
    }
    let error = ssh.arg(format!("{vm}{DOMAIN}")).args(args).exec();
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(Code::Unavailable, "ssh is not installed on this host")
            .hint("install openssh-client")
            .hint(format!("banger vm exec -t {vm} gives a shell without it")),
        _ => Failure::caused_by(Code::Unavailable, "cannot run ssh", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vms_user_enters_unless_another_is_named() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(login(Some("dev:staff"), &args(&["uptime"])), Some("dev"));
        for said in [
            &["-l", "root"][..],
            &["-vlroot"],
            &["-vl", "root"],
            &["-p", "22", "-l", "root", "ls"],
            &["-oUser=root"],
            &["-o", "user root", "id"],
        ] {
            assert_eq!(login(Some("dev"), &args(said)), None, "{said:?}");
        }
        // Options on the user's command line take precedence.
        for unsaid in [
            &["ls", "-l"][..],
            &["-v", "ls", "-la"],
            &["--", "-l"],
            &["-L", "8080:localhost:80", "-N"],
            &["-p", "-l"],
            &["-oUserKnownHostsFile=/x"],
            &["grep", "-l", "x", "."],
        ] {
            assert_eq!(login(Some("dev"), &args(unsaid)), Some("dev"), "{unsaid:?}");
        }
        assert_eq!(login(Some("1000:1000"), &[]), None);
        assert_eq!(login(None, &[]), None);
    }
}
