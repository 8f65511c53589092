//! Git configuration and rules that a guest set itself, which stay when the repository is imported again.
//!
//! Each import records its configuration and rules beside the current ones. Whatever differs from that record, or is
//! not in it, was set by the guest.

use super::settings::{Config, Pair, decides_content, entries};
use std::collections::{BTreeMap, BTreeSet};

/// Files of rules to which a guest may add lines, each with the file in the git directory that records its imported
/// content.
pub(super) const RULES: [(&str, &str); 2] =
    [("info/exclude", "banger-exclude"), ("info/attributes", "banger-attributes")];
/// File in the git directory that records the imported configuration.
pub(super) const CONFIG: &str = "banger-config";

/// Configuration and rules of one repository in a guest.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct GuestConfig {
    config: Versions<Pair>,
    /// Lines of each of [`RULES`].
    rules: [Versions<Vec<u8>>; 2],
}

/// Entries as they are now and as they were imported.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Versions<T> {
    current: Vec<T>,
    imported: Vec<T>,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self { current: Vec::new(), imported: Vec::new() }
    }
}

impl GuestConfig {
    /// Reads six lists: current and imported configuration, and the same for each file of rules.
    pub(super) fn read<'a>(mut next: impl FnMut() -> Option<Vec<&'a [u8]>>) -> Option<Self> {
        let mut config = || Some(entries(next()?));
        let config = Versions { current: config()?, imported: config()? };
        let mut lines = || Some(next()?.into_iter().map(<[u8]>::to_vec).collect());
        let mut rules = || Some(Versions { current: lines()?, imported: lines()? });
        Some(Self { config, rules: [rules()?, rules()?] })
    }

    /// Whether banger imported this repository: every import records a configuration.
    pub(super) fn was_imported(&self) -> bool {
        !self.config.imported.is_empty()
    }

    /// Merges the arriving configuration with what the guest set. Where both changed a key the guest wins, unless
    /// `overwrite` is set. Keys that decide the content of files or how git stores the repository always come from the
    /// repository, since its index and objects fit only those.
    pub(super) fn merge_config(&self, arriving: &Config, overwrite: bool) -> Config {
        let (current, imported) = (by_key(&self.config.current), by_key(&self.config.imported));
        // Without a record it is not known what was imported.
        let overwrite = overwrite || imported.is_empty();
        let is_own = |key: &&&[u8]| current.get(**key) != imported.get(**key) && !decides_content(key);
        let guest: BTreeSet<&[u8]> =
            current.keys().chain(imported.keys()).filter(is_own).map(|key| unit(key)).collect();
        let host: BTreeSet<&[u8]> = arriving.entries().iter().map(|(key, _)| unit(key)).collect();
        let wins = |key: &[u8]| guest.contains(unit(key)) && !(overwrite && host.contains(unit(key)));
        let mut merged = Config::default();
        for (key, value) in arriving.entries().iter().filter(|(key, _)| !wins(key)) {
            merged.add(key, value);
        }
        for (key, value) in self.config.current.iter().filter(|(key, _)| wins(key)) {
            merged.add(key, value);
        }
        merged
    }

    /// Merges the `number`-th file of [`RULES`]: the arriving lines, then those the guest added. None where there is no
    /// such file.
    pub(super) fn merge_rules(&self, number: usize, arriving: Option<&[u8]>) -> Option<Vec<u8>> {
        let Versions { current, imported } = &self.rules[number];
        let mut text = arriving.unwrap_or_default().to_vec();
        let known: BTreeSet<&[u8]> =
            text.split(|byte| *byte == b'\n').chain(imported.iter().map(Vec::as_slice)).collect();
        let added: Vec<&Vec<u8>> = current.iter().filter(|line| !known.contains(line.as_slice())).collect();
        for line in added {
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        // An existing file is emptied when nothing of it is left.
        (arriving.is_some() || !current.is_empty() || !text.is_empty()).then_some(text)
    }
}

/// Returns the unit a key belongs to, which is kept or replaced as a whole: a remote's section, or what a branch
/// follows. Half of one and half of another would fetch from here and push to there.
fn unit(key: &[u8]) -> &[u8] {
    let end = key.iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1);
    let (section, name) = key.split_at(end);
    let follows = section.starts_with(b"branch.") && matches!(name, b"remote" | b"merge");
    if follows || section.starts_with(b"remote.") { section } else { key }
}

/// Groups the values by their key, in order.
fn by_key(entries: &[Pair]) -> BTreeMap<&[u8], Vec<&[u8]>> {
    let mut map: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    for (key, value) in entries {
        map.entry(key).or_default().push(value);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Vec<Pair> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn merged(current: &str, imported: &str, arriving: &str, overwrite: bool) -> Vec<Pair> {
        let guest = GuestConfig {
            config: Versions { current: config(current), imported: config(imported) },
            ..GuestConfig::default()
        };
        let mut host = Config::default();
        for (key, value) in config(arriving) {
            host.add(&key, &value);
        }
        guest.merge_config(&host, overwrite).entries().to_vec()
    }

    #[test]
    fn what_the_guest_said_stays() {
        let imported = "user.name=A core.autocrlf=true remote.origin.url=u branch.main.remote=origin";
        let arriving = "user.name=B core.autocrlf=input remote.origin.url=v";
        // Keys that the guest left alone follow the repository.
        assert_eq!(merged(imported, imported, arriving, false), config(arriving));
        let current = "user.name=Me core.autocrlf=false remote.origin.url=u branch.main.remote=fork remote.fork.url=f \
                  remote.fork.fetch=1 remote.fork.fetch=2";
        let guest = "branch.main.remote=fork remote.fork.url=f remote.fork.fetch=1 remote.fork.fetch=2";
        assert_eq!(
            merged(current, imported, arriving, false),
            config(&format!("core.autocrlf=input remote.origin.url=v user.name=Me {guest}"))
        );
        for (imported, overwrite) in [(imported, true), ("", false)] {
            let expected = config(&format!("{arriving} {guest}"));
            assert_eq!(merged(current, imported, arriving, overwrite), expected, "{imported}");
        }
        // How git stores a repository is the repository's alone.
        let (zero, one) = ("core.repositoryformatversion=0", "core.repositoryformatversion=1");
        let current = format!("{one} extensions.refstorage=reftable extensions.worktreeconfig=true user.name=A");
        for overwrite in [false, true] {
            let arriving = format!("{zero} user.name=A");
            assert_eq!(merged(&current, &arriving, &arriving, overwrite), config(&arriving));
        }
        // Keys that the guest removed stay removed.
        let less = "core.autocrlf=true remote.origin.url=u branch.main.remote=origin";
        assert_eq!(merged(less, imported, arriving, false), config("core.autocrlf=input remote.origin.url=v"));
    }

    /// A remote is taken as a whole from one side or the other.
    #[test]
    fn what_is_of_one_piece_stays_so() {
        let imported = "remote.origin.url=u remote.origin.fetch=f branch.main.remote=origin branch.main.merge=m";
        let arriving = "remote.origin.url=v remote.origin.fetch=f branch.main.remote=origin branch.main.merge=n";
        let current = format!("{imported} remote.origin.pushurl=p branch.main.description=d");
        let guest = "remote.origin.url=u remote.origin.fetch=f remote.origin.pushurl=p branch.main.description=d";
        let follows = "branch.main.remote=origin branch.main.merge=n";
        assert_eq!(merged(&current, imported, arriving, false), config(&format!("{follows} {guest}")));
        let overwritten = config(&format!("{arriving} branch.main.description=d"));
        assert_eq!(merged(&current, imported, arriving, true), overwritten);
        // A remote that does not arrive any more stays whole.
        assert_eq!(merged(&current, imported, "a.b=c", false), config(&format!("a.b=c {guest}")));
        let current = imported.replace("branch.main.remote=origin", "branch.main.remote=fork");
        let guest = "branch.main.remote=fork branch.main.merge=m";
        let arriving = "branch.main.remote=origin branch.main.merge=n";
        assert_eq!(merged(&current, imported, arriving, false), config(guest));
        assert_eq!(merged(&current, imported, arriving, true), config(arriving));
        let current = "branch.main.remote=origin branch.main.merge=m";
        assert_eq!(merged(current, imported, &format!("{arriving} remote.origin.url=v"), false), config(arriving));
    }

    #[test]
    fn lines_that_the_guest_added_stay() {
        let lines = |text: &str| text.lines().map(|line| line.as_bytes().to_vec()).collect();
        let guest = |current: &str, imported: &str| {
            let rules = [Versions { current: lines(current), imported: lines(imported) }, Versions::default()];
            GuestConfig { rules, ..GuestConfig::default() }
        };
        let merge = |guest: &GuestConfig, arriving: Option<&str>| {
            guest.merge_rules(0, arriving.map(str::as_bytes)).map(|text| String::from_utf8(text).unwrap())
        };
        let both = guest("*.o\nbuilt", "*.o");
        assert_eq!(merge(&both, Some("*.o\n*.a")).as_deref(), Some("*.o\n*.a\nbuilt\n"));
        assert_eq!(merge(&both, Some("built\n")).as_deref(), Some("built\n"));
        assert_eq!(merge(&both, None).as_deref(), Some("built\n"));
        assert_eq!(merge(&guest("*.o", "*.o"), None).as_deref(), Some(""));
        assert_eq!(merge(&GuestConfig::default(), None), None);
        assert_eq!(both.merge_rules(1, None), None);
    }
}
