//! What of the repository's and the user's git configuration matters for what files look like, and for who commits.
//!
//! Reading configuration runs nothing. What is taken on is this list and no more.

use super::{changes::pieces, git::Git, repository::Repository};
use banger_proto::failure::Failure;
use std::{collections::BTreeMap, fmt::Write as _};

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

/// The configuration in force, as far as it is known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
}

/// The remote branch a branch follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// `refs/heads/main`, at the remote.
    pub(crate) merge: String,
    /// `refs/remotes/origin/main`, here.
    pub(crate) tracking: String,
}

impl Settings {
    /// Reads what is in force in a repository, the user's own configuration included.
    pub(crate) fn read(git: &Git, repository: &Repository) -> Result<Self, Failure> {
        let call = git.reading(&repository.git_dir).with_user_settings();
        Ok(Self::parse(&call.args(["config", "--list", "-z"]).ask("read the repository's configuration", b"")?))
    }

    fn parse(listing: &[u8]) -> Self {
        Self { values: entries(pieces(listing)).into_iter().collect() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// `sha256`, unless it is the usual one.
    pub(crate) fn object_format(&self) -> Option<&str> {
        self.get("extensions.objectformat").filter(|format| *format != "sha1")
    }

    /// Whether they make git convert line ends that no attribute mentions.
    pub(crate) fn convert(&self) -> bool {
        let is = |key, values: &[&str]| self.get(key).is_some_and(|value| values.contains(&&*value.to_lowercase()));
        is("core.autocrlf", &["true", "yes", "on", "1", "input"]) || is("core.eol", &["crlf"])
    }

    /// The configuration of a facade.
    pub(crate) fn for_facade(&self) -> Config {
        let mut config = Config::new(self.object_format());
        config.set("core.bare", "false").set("core.safecrlf", "false").set("index.sparse", "false");
        self.copy(&CONTENT, &mut config);
        self.copy(&HOST_FILES, &mut config);
        self.copy(&STATUS, &mut config);
        config
    }

    /// The configuration of a guest's repository, before branches.
    pub(crate) fn for_guest(&self) -> Config {
        let mut config = Config::new(self.object_format());
        config.set("core.bare", "false");
        self.copy(&CONTENT, &mut config);
        self.copy(&STATUS, &mut config);
        self.copy(&["user.name", "user.email"], &mut config);
        for (key, value) in &self.values {
            if let Some(name) = key.strip_prefix("submodule.") {
                match name.rsplit_once('.') {
                    Some((_, "url")) => drop(config.set(key, &without_password(value))),
                    Some((_, "active")) => drop(config.set(key, value)),
                    _ => {}
                }
            }
        }
        if let Some(url) = self.get("remote.origin.url") {
            config.set("remote.origin.url", &without_password(url));
            config.set("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*");
        }
        config
    }

    /// What `branch` follows at `origin`.
    pub(crate) fn upstream(&self, branch: &str) -> Option<Upstream> {
        let merge = self.get(&format!("branch.{branch}.merge"))?;
        let name = merge.strip_prefix("refs/heads/")?;
        let from_origin = self.get(&format!("branch.{branch}.remote")) == Some("origin");
        from_origin.then(|| Upstream { merge: merge.to_owned(), tracking: format!("refs/remotes/origin/{name}") })
    }

    fn copy(&self, keys: &[&str], to: &mut Config) {
        for key in keys {
            if let Some(value) = self.get(key) {
                to.set(key, value);
            }
        }
    }
}

/// Keys and values, of what `git config --list -z` says.
pub(super) fn entries<'a>(listing: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
    let entry = |entry: &[u8]| {
        let text = String::from_utf8_lossy(entry);
        // A key without `=` is true.
        let (key, value) = text.split_once('\n').unwrap_or((&text, "true"));
        (key.to_owned(), value.to_owned())
    };
    listing.into_iter().map(entry).collect()
}

/// Whether a key decides what a file's content is, or how git keeps the repository, which arrives as it does.
pub(super) fn decides_content(key: &str) -> bool {
    CONTENT.contains(&key) || key == "core.repositoryformatversion" || key.starts_with("extensions.")
}

/// A URL as it may be shown to a guest: with a user, without a password.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((user, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    match user.split_once(':') {
        Some((user, _)) if scheme == "ssh" => format!("{scheme}://{user}@{host}{path}"),
        // A token is a user name by itself as often as not.
        _ if scheme != "ssh" => format!("{scheme}://{host}{path}"),
        _ => url.to_owned(),
    }
}

/// A git configuration file being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    entries: Vec<(String, String)>,
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

    /// Adds one value. A key's parts are its section, what is between (a branch's name), and its last word.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.entries.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn entries(&self) -> &[(String, String)] {
        &self.entries
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.entries {
            let (Some(first), Some(last)) = (key.find('.'), key.rfind('.')) else { continue };
            let header = match key.get(first + 1..last) {
                Some(name) if !name.is_empty() => format!("[{} \"{}\"]", &key[..first], escaped(name)),
                _ => format!("[{}]", &key[..first]),
            };
            let _ = writeln!(text, "{header}\n\t{} = \"{}\"", &key[last + 1..], escaped(value));
        }
        text
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Nothing else can be written, and nothing sensible has it.
            char if char.is_control() => {}
            char => out.push(char),
        }
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
        let (facade, guest) = (settings.for_facade(), settings.for_guest());
        for config in [facade.text(), guest.text()] {
            assert!(!config.contains("evil") && !config.contains("sshcommand"), "{config}");
            assert!(config.contains("autocrlf = \"input\""), "{config}");
        }
        assert!(guest.text().contains("name = \"A \\\"B\\\"\\\\\""), "{}", guest.text());
        assert!(facade.text().contains("excludesfile") && !guest.text().contains("excludesfile"));
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
            assert_eq!(without_password(url), shown);
        }
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

    #[test]
    fn names_between_the_dots_are_quoted() {
        let mut config = Config::new(Some("sha256"));
        config.set("branch.a\"b.remote", "origin");
        assert!(config.text().contains("[branch \"a\\\"b\"]\n\tremote = \"origin\"\n"), "{}", config.text());
        assert!(config.text().contains("repositoryformatversion = \"1\""));
    }
}
