//! What a guest's git was told there: configuration and rules that are the guest's own and stay when the repository is
//! brought again.
//!
//! What was brought is written down beside them. What is no longer as it was then, or was never brought, the guest said.

use super::settings::{Config, Pair, decides_content, entries};
use std::collections::{BTreeMap, BTreeSet};

/// Files of rules to which a guest may add, and the files in a git directory that say what was brought of each.
pub(super) const RULES: [(&str, &str); 2] =
    [("info/exclude", "banger-exclude"), ("info/attributes", "banger-attributes")];
/// The one that says which configuration was brought.
pub(super) const CONFIG: &str = "banger-config";

/// What one repository in a guest was told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    config: Then<Pair>,
    /// Lines, for each of [`RULES`].
    rules: [Then<Vec<u8>>; 2],
}

/// Things as they are and as they were brought.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Then<T> {
    is: Vec<T>,
    brought: Vec<T>,
}

impl<T> Default for Then<T> {
    fn default() -> Self {
        Self { is: Vec::new(), brought: Vec::new() }
    }
}

impl Own {
    /// Reads six lists: configuration as it is and was, and the same of each file of rules.
    pub(super) fn read<'a>(mut next: impl FnMut() -> Option<Vec<&'a [u8]>>) -> Option<Self> {
        let mut config = || Some(entries(next()?));
        let config = Then { is: config()?, brought: config()? };
        let mut lines = || Some(next()?.into_iter().map(<[u8]>::to_vec).collect());
        let mut rules = || Some(Then { is: lines()?, brought: lines()? });
        Some(Self { config, rules: [rules()?, rules()?] })
    }

    /// Whether the repository was brought at all: of each that is, it is written down which configuration it came with.
    pub(super) fn was_brought(&self) -> bool {
        !self.config.brought.is_empty()
    }

    /// The configuration that arrives, with what the guest said. What both changed is the guest's, unless it is to be
    /// overwritten; what decides what files look like and how git keeps them is the repository's, for so it comes.
    pub(super) fn merge_config(&self, arriving: &Config, overwrite: bool) -> Config {
        let (is, brought) = (by_key(&self.config.is), by_key(&self.config.brought));
        // Nobody knows what was brought by one that wrote nothing down.
        let overwrite = overwrite || brought.is_empty();
        let is_own = |key: &&&[u8]| is.get(**key) != brought.get(**key) && !decides_content(key);
        let own: BTreeSet<&[u8]> = is.keys().chain(brought.keys()).filter(is_own).map(|key| piece(key)).collect();
        let theirs: BTreeSet<&[u8]> = arriving.entries().iter().map(|(key, _)| piece(key)).collect();
        let wins = |key: &[u8]| own.contains(piece(key)) && !(overwrite && theirs.contains(piece(key)));
        let mut merged = Config::default();
        for (key, value) in arriving.entries().iter().filter(|(key, _)| !wins(key)) {
            merged.add(key, value);
        }
        for (key, value) in self.config.is.iter().filter(|(key, _)| wins(key)) {
            merged.add(key, value);
        }
        merged
    }

    /// A file of [`RULES`], by its place there: what arrives, and what the guest added. None where there is none.
    pub(super) fn merge_rules(&self, place: usize, arriving: Option<&[u8]>) -> Option<Vec<u8>> {
        let Then { is, brought } = &self.rules[place];
        let mut text = arriving.unwrap_or_default().to_vec();
        let known: BTreeSet<&[u8]> =
            text.split(|byte| *byte == b'\n').chain(brought.iter().map(Vec::as_slice)).collect();
        let added: Vec<&Vec<u8>> = is.iter().filter(|line| !known.contains(line.as_slice())).collect();
        for line in added {
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        // One that was there is emptied when nothing is left of it.
        (arriving.is_some() || !is.is_empty() || !text.is_empty()).then_some(text)
    }
}

/// What is of one piece with a key: all that is said of a remote, or of what a branch follows. Half of one and half of
/// another would fetch from here and push to there.
fn piece(key: &[u8]) -> &[u8] {
    let end = key.iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1);
    let (section, name) = key.split_at(end);
    let follows = section.starts_with(b"branch.") && matches!(name, b"remote" | b"merge");
    if follows || section.starts_with(b"remote.") { section } else { key }
}

/// A key's values, in their order.
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

    fn merged(is: &str, brought: &str, arriving: &str, overwrite: bool) -> Vec<Pair> {
        let own = Own { config: Then { is: config(is), brought: config(brought) }, ..Own::default() };
        let mut theirs = Config::default();
        for (key, value) in config(arriving) {
            theirs.add(&key, &value);
        }
        own.merge_config(&theirs, overwrite).entries().to_vec()
    }

    #[test]
    fn what_the_guest_said_stays() {
        let brought = "user.name=A core.autocrlf=true remote.origin.url=u branch.main.remote=origin";
        let arriving = "user.name=B core.autocrlf=input remote.origin.url=v";
        // Left alone, it follows the repository.
        assert_eq!(merged(brought, brought, arriving, false), config(arriving));
        let is = "user.name=Me core.autocrlf=false remote.origin.url=u branch.main.remote=fork remote.fork.url=f \
                  remote.fork.fetch=1 remote.fork.fetch=2";
        let own = "branch.main.remote=fork remote.fork.url=f remote.fork.fetch=1 remote.fork.fetch=2";
        assert_eq!(
            merged(is, brought, arriving, false),
            config(&format!("core.autocrlf=input remote.origin.url=v user.name=Me {own}"))
        );
        for (brought, overwrite) in [(brought, true), ("", false)] {
            let expected = config(&format!("{arriving} {own}"));
            assert_eq!(merged(is, brought, arriving, overwrite), expected, "{brought}");
        }
        // How git keeps a repository is of one piece.
        let (zero, one) = ("core.repositoryformatversion=0", "core.repositoryformatversion=1");
        let is = format!("{one} extensions.refstorage=reftable extensions.worktreeconfig=true user.name=A");
        for overwrite in [false, true] {
            let arriving = format!("{zero} user.name=A");
            assert_eq!(merged(&is, &arriving, &arriving, overwrite), config(&arriving));
        }
        // What it took away is away.
        let less = "core.autocrlf=true remote.origin.url=u branch.main.remote=origin";
        assert_eq!(merged(less, brought, arriving, false), config("core.autocrlf=input remote.origin.url=v"));
    }

    /// A remote is one's or the other's.
    #[test]
    fn what_is_of_one_piece_stays_so() {
        let brought = "remote.origin.url=u remote.origin.fetch=f branch.main.remote=origin branch.main.merge=m";
        let arriving = "remote.origin.url=v remote.origin.fetch=f branch.main.remote=origin branch.main.merge=n";
        let is = format!("{brought} remote.origin.pushurl=p branch.main.description=d");
        let own = "remote.origin.url=u remote.origin.fetch=f remote.origin.pushurl=p branch.main.description=d";
        let follows = "branch.main.remote=origin branch.main.merge=n";
        assert_eq!(merged(&is, brought, arriving, false), config(&format!("{follows} {own}")));
        let overwritten = config(&format!("{arriving} branch.main.description=d"));
        assert_eq!(merged(&is, brought, arriving, true), overwritten);
        // Neither is one left without the rest of it.
        assert_eq!(merged(&is, brought, "a.b=c", false), config(&format!("a.b=c {own}")));
        let is = brought.replace("branch.main.remote=origin", "branch.main.remote=fork");
        let own = "branch.main.remote=fork branch.main.merge=m";
        let arriving = "branch.main.remote=origin branch.main.merge=n";
        assert_eq!(merged(&is, brought, arriving, false), config(own));
        assert_eq!(merged(&is, brought, arriving, true), config(arriving));
        let is = "branch.main.remote=origin branch.main.merge=m";
        assert_eq!(merged(is, brought, &format!("{arriving} remote.origin.url=v"), false), config(arriving));
    }

    #[test]
    fn lines_that_the_guest_added_stay() {
        let lines = |text: &str| text.lines().map(|line| line.as_bytes().to_vec()).collect();
        let own = |is: &str, brought: &str| {
            let rules = [Then { is: lines(is), brought: lines(brought) }, Then::default()];
            Own { rules, ..Own::default() }
        };
        let merge = |own: &Own, arriving: Option<&str>| {
            own.merge_rules(0, arriving.map(str::as_bytes)).map(|text| String::from_utf8(text).unwrap())
        };
        let both = own("*.o\nbuilt", "*.o");
        assert_eq!(merge(&both, Some("*.o\n*.a")).as_deref(), Some("*.o\n*.a\nbuilt\n"));
        assert_eq!(merge(&both, Some("built\n")).as_deref(), Some("built\n"));
        assert_eq!(merge(&both, None).as_deref(), Some("built\n"));
        assert_eq!(merge(&own("*.o", "*.o"), None).as_deref(), Some(""));
        assert_eq!(merge(&Own::default(), None), None);
        assert_eq!(both.merge_rules(1, None), None);
    }
}
