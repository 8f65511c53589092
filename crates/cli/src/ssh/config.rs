//! Renders the ssh configuration for VMs.

use super::access::DOMAIN;
use banger_proto::{
    failure::{Code, Failure},
    layout::Layout,
};
use std::{ffi::OsStr, path::Path};

/// Renders the section for all VMs. `home` is `BANGER_HOME`, if it is set.
pub(crate) fn render(layout: &Layout, banger: &Path, home: Option<&OsStr>) -> Result<String, Failure> {
    let ssh = layout.ssh();
    let proxy = match home {
        Some(home) => format!("env BANGER_HOME={} {}", shell(home)?, shell(banger.as_os_str())?),
        None => shell(banger.as_os_str())?,
    };
    Ok(format!(
        "# Written by 'banger ssh-config'.\n\
         Host *{DOMAIN}\n    \
         ProxyCommand {proxy} ssh-proxy %n\n    \
         User root\n    \
         IdentityFile {}\n    \
         IdentitiesOnly yes\n    \
         UserKnownHostsFile {}\n    \
         GlobalKnownHostsFile /dev/null\n    \
         StrictHostKeyChecking yes\n    \
         HostKeyAlgorithms ssh-ed25519\n    \
         CheckHostIP no\n    \
         ForwardAgent no\n    \
         UpdateHostKeys no\n",
        quoted(&ssh.join("id_ed25519"))?,
        quoted(&layout.known_hosts())?,
    ))
}

/// Quotes a path for an ssh configuration, where `%` begins a token.
pub(crate) fn quoted(path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\\', '\n', '$']) => Ok(format!("\"{}\"", text.replace('%', "%%"))),
        _ => Err(unfit(path.as_os_str())),
    }
}

/// Quotes a word for the user's shell, which runs a proxy command.
fn shell(word: &OsStr) -> Result<String, Failure> {
    match word.to_str() {
        Some(text) if !text.contains(['\'', '\n']) => Ok(format!("'{}'", text.replace('%', "%%"))),
        _ => Err(unfit(word)),
    }
}

fn unfit(path: &OsStr) -> Failure {
    Failure::new(Code::Unsupported, format!("ssh's configuration cannot hold the path {}", path.display()))
        .hint("a path without quotes, backslashes and line ends can be written there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(home: &str) -> Layout {
        Layout::resolve(|key| (key == "BANGER_HOME").then(|| home.into()), 0).unwrap()
    }

    #[test]
    fn paths_of_every_kind_stay_one_word() {
        let text = render(&layout("/h/a b%"), Path::new("/opt/my tools/banger"), Some(OsStr::new("/h/a b%"))).unwrap();
        assert!(
            text.contains("ProxyCommand env BANGER_HOME='/h/a b%%' '/opt/my tools/banger' ssh-proxy %n\n"),
            "{text}"
        );
        assert!(text.contains("IdentityFile \"/h/a b%%/state/ssh/id_ed25519\"\n"), "{text}");
        assert!(text.contains("StrictHostKeyChecking yes"), "{text}");
        for bad in ["/h/\"x", "/h/a\nHost *"] {
            assert!(render(&layout(bad), Path::new("/b"), None).is_err(), "{bad}");
        }
        assert!(render(&layout("/h"), Path::new("/it's"), None).is_err());
    }
}
