//! Settings of the repository's and the user's git configuration that matter for the content of files and for who
//! commits.
//!
//! Reading configuration runs nothing. Only the keys listed here are used.

use super::{changes::split_nul, git::Git, repository::Repository};
use banger_proto::failure::Failure;
use std::collections::BTreeMap;

/// Keys that decide what a file's content is, and which files are ignored.
const CONTENT: [&str; 7] = [
    "core.autocrlf",
    "core.eol",
    "core.filemode",
    "core.symlinks",
    "core.precomposeunicode",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
];
/// Keys that name files of this host.
const HOST_FILES: [&str; 2] = ["core.excludesfile", "core.attributesfile"];
/// Keys that change what `git status` says.
const STATUS: [&str; 3] = ["diff.renames", "status.renames", "status.relativepaths"];

/// A key and its value, which may not be UTF-8.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Effective configuration of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Remote branch that a branch follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// Its ref at the remote, such as `refs/heads/main`.
    pub(crate) merge: String,
    /// Its tracking ref here, such as `refs/remotes/origin/main`.
    pub(crate) tracking: String,
}

impl Settings {
    /// Reads the effective configuration, the user's own included.
    pub(crate) fn read(git: &Git, repository: &Repository) -> Result<Self, Failure> {
        let call = git.reading(&repository.git_dir).with_user_settings();
        Ok(Self::parse(&call.args(["config", "--list", "-z"]).ask("read the repository's configuration", b"")?))
    }

    fn parse(listing: &[u8]) -> Self {
        Self { values: entries(split_nul(listing)).into_iter().collect() }
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice)
    }

    /// Returns a value that is UTF-8.
    fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.get(key)?).ok()
    }

    /// Returns the object format unless it is the default, SHA-1.
    pub(crate) fn object_format(&self) -> Option<&str> {
        self.text("extensions.objectformat").filter(|format| *format != "sha1")
    }

    /// Whether git converts line ends of files that no attribute names.
    pub(crate) fn convert(&self) -> bool {
        let is = |key, values: &[&str]| self.text(key).is_some_and(|value| values.contains(&&*value.to_lowercase()));
        is("core.autocrlf", &["true", "yes", "on", "1", "input"]) || is("core.eol", &["crlf"])
    }

    /// Returns the configuration of a shadow repository.
    pub(crate) fn for_shadow(&self) -> Config {
        let mut config = Config::new(self.object_format());
        config.set("core.bare", "false").set("core.safecrlf", "false").set("index.sparse", "false");
        self.copy(&CONTENT, &mut config);
        self.copy(&HOST_FILES, &mut config);
        self.copy(&STATUS, &mut config);
        config
    }

    /// Returns the configuration of the guest's repository, without branches.
    pub(crate) fn for_guest(&self) -> Config {
        let mut config = Config::new(self.object_format());
        config.set("core.bare", "false");
        self.copy(&CONTENT, &mut config);
        self.copy(&STATUS, &mut config);
        self.copy(&["user.name", "user.email"], &mut config);
        for (key, value) in &self.values {
            match key.strip_prefix(b"submodule.") {
                Some(name) if name.ends_with(b".url") => config.add(key, &without_password(value)),
                Some(name) if name.ends_with(b".active") => config.add(key, value),
                _ => {}
            }
        }
        if let Some(url) = self.get("remote.origin.url") {
            config.add(b"remote.origin.url", &without_password(url));
            config.set("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*");
        }
        config
    }

    /// Returns the branch of `origin` that `branch` follows.
    pub(crate) fn upstream(&self, branch: &str) -> Option<Upstream> {
        let merge = self.text(&format!("branch.{branch}.merge"))?;
        let name = merge.strip_prefix("refs/heads/")?;
        let from_origin = self.text(&format!("branch.{branch}.remote")) == Some("origin");
        from_origin.then(|| Upstream { merge: merge.to_owned(), tracking: format!("refs/remotes/origin/{name}") })
    }

    fn copy(&self, keys: &[&str], to: &mut Config) {
        for key in keys {
            if let Some(value) = self.get(key) {
                to.add(key.as_bytes(), value);
            }
        }
    }
}

/// Parses the entries of `git config --list -z`.
pub(super) fn entries<'a>(listing: impl IntoIterator<Item = &'a [u8]>) -> Vec<Pair> {
    let entry = |entry: &[u8]| match entry.iter().position(|byte| *byte == b'\n') {
        Some(end) => (entry[..end].to_vec(), entry[end + 1..].to_vec()),
        // A key without `=` is true.
        None => (entry.to_vec(), b"true".to_vec()),
    };
    listing.into_iter().map(entry).collect()
}

/// Whether a key decides what a file's content is or how git stores the repository; such keys always come from the
/// host.
pub(super) fn decides_content(key: &[u8]) -> bool {
    let mut known = CONTENT.iter().chain(&["core.repositoryformatversion"]);
    known.any(|known| known.as_bytes() == key) || key.starts_with(b"extensions.")
}

/// Removes the password from a URL, and the user too unless it is ssh.
fn without_password(url: &[u8]) -> Vec<u8> {
    let Some(scheme) = url.windows(3).position(|window| window == b"://") else { return url.to_vec() };
    let (scheme, rest) = url.split_at(scheme + 3);
    let (authority, path) = rest.split_at(rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len()));
    let Some(at) = authority.iter().rposition(|byte| *byte == b'@') else { return url.to_vec() };
    let (user, host) = (&authority[..at], &authority[at + 1..]);
    // A token is often passed as a user name.
    let user = if scheme == b"ssh://" { user.split(|byte| *byte == b':').next() } else { None };
    [scheme, user.unwrap_or_default(), if user.is_some() { b"@" } else { b"" }, host, path].concat()
}

/// A git configuration file being built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    entries: Vec<Pair>,
}

impl Config {
    fn new(object_format: Option<&str>) -> Self {
        let mut config = Self::default();
        config.set("core.repositoryformatversion", if object_format.is_some() { "1" } else { "0" });
        if let Some(format) = object_format {
            config.set("extensions.objectformat", format);
        }
        config
    }

    /// Adds a value. The parts of a key are its section, what is between (a branch's name), and its last word.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.add(key.as_bytes(), value.as_bytes());
        self
    }

    /// Adds a value in bytes.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.entries.push((key.to_vec(), value.to_vec()));
    }

    pub(super) fn entries(&self) -> &[Pair] {
        &self.entries
    }

    /// Returns the file's text.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let is_dot = |byte: &u8| *byte == b'.';
        for (key, value) in &self.entries {
            let (Some(first), Some(last)) = (key.iter().position(is_dot), key.iter().rposition(is_dot)) else {
                continue;
            };
            text.extend([b"[", &key[..first]].concat());
            if let Some(name) = key.get(first + 1..last).filter(|name| !name.is_empty()) {
                // In a subsection name a backslash only quotes the next byte.
                text.extend([b" \"", escaped(name, b"\"\\").as_slice(), b"\""].concat());
            }
            let value = escaped(value, b"\"\\\n\t");
            text.extend([b"]\n\t", &key[last + 1..], b" = \"", &value, b"\"\n"].concat());
        }
        text
    }
}

/// Puts a backslash before each byte `of` those, and writes line feed and tab as letters.
fn escaped(text: &[u8], of: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if of.contains(byte) {
            out.push(b'\\');
        }
        out.push(match byte {
            b'\n' if of.contains(byte) => b'n',
            b'\t' if of.contains(byte) => b't',
            byte => *byte,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(text.replace('|', "\0").as_bytes())
    }

    #[test]
    fn only_what_is_listed_is_taken_on() {
        let settings = settings(
            "core.autocrlf\ninput|filter.evil.smudge\ntouch /pwned|core.fsmonitor\n/bin/evil|core.sshcommand\nx|\
             user.name\nA \"B\"\\|core.excludesfile\n~/.ignore|alias.x\n!evil|core.sparsecheckout|",
        );
        let text = |config: Config| String::from_utf8(config.text()).unwrap();
        let (shadow, guest) = (text(settings.for_shadow()), text(settings.for_guest()));
        for config in [&shadow, &guest] {
            assert!(!config.contains("evil") && !config.contains("sshcommand"), "{config}");
            assert!(config.contains("autocrlf = \"input\""), "{config}");
        }
        assert!(guest.contains("name = \"A \\\"B\\\"\\\\\""), "{guest}");
        assert!(shadow.contains("excludesfile") && !guest.contains("excludesfile"));
    }

    #[test]
    fn passwords_stay_here() {
        for (url, shown) in [
            ("https://me:secret@example.com/a.git", "https://example.com/a.git"),
            ("https://ghp_token@example.com/a@b", "https://example.com/a@b"),
            ("ssh://git:x@example.com:22/a", "ssh://git@example.com:22/a"),
            ("ssh://git@example.com/a", "ssh://git@example.com/a"),
            ("git@example.com:a/b", "git@example.com:a/b"),
            ("/srv/git/a", "/srv/git/a"),
        ] {
            assert_eq!(without_password(url.as_bytes()), shown.as_bytes(), "{url}");
        }
        assert_eq!(without_password(b"https://me:\xff@h/\xfe"), b"https://h/\xfe");
    }

    #[test]
    fn upstreams_of_origin_are_known() {
        let settings =
            settings("branch.a.b.remote\norigin|branch.a.b.merge\nrefs/heads/x/y|branch.l.merge\nrefs/heads/l|");
        let upstream = settings.upstream("a.b").unwrap();
        assert_eq!(
            (upstream.merge.as_str(), upstream.tracking.as_str()),
            ("refs/heads/x/y", "refs/remotes/origin/x/y")
        );
        assert_eq!(settings.upstream("l"), None);
    }

    /// git itself reads what is written, whatever the bytes.
    #[test]
    fn git_reads_what_is_written() {
        let mut config = Config::new(Some("sha256"));
        config.set("branch.a\"b\\c\td.remote", "origin").set("x.empty", "");
        config.add(b"user.name", b" J\xfcrgen \"#;\\\n\r\t\x01\x1b ");
        config.add(b"branch.\xff.merge", b"\xfe");
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("config");
        std::fs::write(&file, config.text()).unwrap();
        let args =
            [std::ffi::OsStr::new("config"), "--file".as_ref(), file.as_os_str(), "--list".as_ref(), "-z".as_ref()];
        let listing = Git::find().unwrap().call().args(args).ask("read it", b"").unwrap();
        assert_eq!(entries(split_nul(&listing)), config.entries());
    }
}
