//! How a program gets to where a test wants it: another network namespace, files in the place of others, an ordinary user.

use crate::netns::NetNamespace;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// What happens between here and the program, as root in a mount namespace of its own. Programs are executed one in the
/// place of the other, so that the last one has the first one's pid.
const LEAD: &str = r#"
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

/// The way; the default is none at all.
#[derive(Debug, Clone, Default)]
pub struct Launcher {
    /// The network namespace.
    pub netns: Option<NetNamespace>,
    /// Files, and which ones they stand in for.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// The user, and perhaps an empty directory for a tap device that this user can open.
    pub user: Option<(u32, Option<PathBuf>)>,
    /// A group the user is in besides.
    pub group: Option<u32>,
}

impl Launcher {
    /// That of an ordinary user. `tap` must exist.
    pub fn user(uid: u32, tap: Option<&Path>) -> Self {
        Self { user: Some((uid, tap.map(Path::to_owned))), ..Self::default() }
    }

    /// The words that come before the program's.
    pub fn prefix(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["nsenter".into(), format!("--net={}", netns.path()).into()]);
        }
        if self.binds.is_empty() && self.user.is_none() {
            return words;
        }
        words.extend(["unshare", "--mount", "--propagation=private", "--", "sh", "-c", LEAD, "sh"].map(OsString::from));
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
