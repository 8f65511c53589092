//! Starts programs where a test wants them: in another network namespace, with files replaced, as an ordinary user.

use crate::netns::NetNamespace;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Shell script between the test and the program, run as root in a mount namespace of its own. Each program executes
/// the next one, so that the last one has the first one's pid.
const SCRIPT: &str = r#"
set -e
while [ "$1" = bind ]; do
  mount --bind "$2" "$3"
  shift 3
done
[ "$1" = user ] || exec "$@"
uid=$2
if [ -n "$3" ]; then
  mount -t tmpfs -o mode=755,size=64k none "$3"
  mknod -m 666 "$3/tun" c 10 200
  mount --bind "$3/tun" /dev/net/tun
fi
groups=${4:+--groups=$4}
shift 4
exec setpriv --reuid="$uid" --regid="$uid" "${groups:---clear-groups}" -- "$@"
"#;

/// How a program is started; the default starts it directly.
#[derive(Debug, Clone, Default)]
pub struct Launcher {
    /// The network namespace.
    pub netns: Option<NetNamespace>,
    /// Files, and the paths at which they are mounted.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// The user, and optionally an empty directory for a tap device that this user can open.
    pub user: Option<(u32, Option<PathBuf>)>,
    /// Supplementary group of the user.
    pub group: Option<u32>,
}

impl Launcher {
    /// Launcher for an ordinary user. `tap` must exist.
    pub fn user(uid: u32, tap: Option<&Path>) -> Self {
        Self { user: Some((uid, tap.map(Path::to_owned))), ..Self::default() }
    }

    /// Command line to put before the program's.
    pub fn prefix(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["nsenter".into(), format!("--net={}", netns.path()).into()]);
        }
        if self.binds.is_empty() && self.user.is_none() {
            return words;
        }
        words.extend(
            ["unshare", "--mount", "--propagation=private", "--", "sh", "-c", SCRIPT, "sh"].map(OsString::from),
        );
        for (file, over) in &self.binds {
            words.extend(["bind".into(), file.into(), over.into()]);
        }
        if let Some((uid, tap)) = &self.user {
            let tap = tap.as_ref().map_or_else(OsString::new, OsString::from);
            let group = self.group.map_or_else(String::new, |group| group.to_string());
            words.extend(["user".into(), uid.to_string().into(), tap, group.into()]);
        }
        words
    }
}
