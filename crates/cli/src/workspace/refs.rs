//! Refs of a workspace: which of them hold work of the guest's, and what becomes of each on the next import.
//!
//! Every import records its refs in the git directory. A ref that differs from the record is the guest's work, wherever
//! HEAD is. Remote-tracking branches are an exception: git fetches those again.

use std::collections::{BTreeMap, HashSet};

/// File in the git directory that lists the imported refs.
pub(super) const IMPORTED: &str = "banger-refs";
/// File in the git directory that holds the commit HEAD was imported at.
pub(super) const HEAD: &str = "banger-head";

/// Ref to the commit that holds the imported tree.
pub(super) const BASE: &str = "refs/banger/base";
/// Prefix of banger's own refs. They belong to one workspace and are not imported.
pub(super) const PRIVATE: &str = "refs/banger/";
/// Prefix of backup refs; the number of the import follows, then the ref that was overwritten.
const BACKUPS: &str = "refs/banger/before/";

/// Object ids by the names of refs.
pub(super) type RefIds<'a> = BTreeMap<&'a str, &'a str>;

/// Refs of one repository in a guest.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Refs {
    /// Commit of HEAD; empty when there is none. Work at HEAD is detected without the refs.
    pub(super) head: String,
    /// Whether HEAD is not at the imported commit, or nothing was imported.
    pub(super) head_moved: bool,
    /// Object ids of the refs now.
    pub(super) current: BTreeMap<String, String>,
    /// Object ids of the refs as they were imported.
    pub(super) imported: BTreeMap<String, String>,
    /// Objects that refs name and that are missing: an import was interrupted, and nothing can be lost with them.
    pub(super) missing: HashSet<String>,
    /// Lines of refs whose names are not UTF-8. No arriving ref has such a name, so they stay.
    pub(super) not_utf8: Vec<u8>,
}

/// Result of merging the guest's refs with the arriving ones.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct MergedRefs {
    /// Refs that stay the guest's own, as lines of `packed-refs`.
    pub(super) own: String,
    /// Lines of own refs whose names are not UTF-8.
    pub(super) not_utf8: Vec<u8>,
    /// Names of arriving refs of which the guest may have a loose file with another object.
    pub(super) stale: Vec<String>,
    /// Names of refs to remove: the repository has them no longer, or they are in the way of an arriving name.
    pub(super) removed: Vec<String>,
    /// Lines of refs that were imported earlier, do not arrive, and did not change.
    pub(super) unchanged: String,
}

impl Refs {
    /// Returns the names of refs whose work would be lost under `arriving`, but for work at HEAD.
    pub(super) fn at_risk<'a>(&'a self, arriving: &'a RefIds<'_>) -> impl Iterator<Item = &'a str> {
        self.lost(arriving).filter(|(_, id)| *id != self.head).map(|(name, _)| name)
    }

    /// Returns the refs that hold work and are replaced or removed under `arriving`.
    fn lost<'a>(&'a self, arriving: &'a RefIds<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let worked_in = |name: &str, id: &str| {
            let counts = (self.head_moved || id != self.head) && !self.missing.contains(id);
            counts && !is_fetched(name) && !self.is_as_imported(name, id)
        };
        let lost = |name: &str, id: &str| match arriving.get(name) {
            Some(new) => *new != id,
            None => in_the_way(name, arriving),
        };
        let refs = self.current.iter().map(|(name, id)| (name.as_str(), id.as_str()));
        refs.filter(move |(name, id)| worked_in(name, id) && lost(name, id))
    }

    /// Returns backup refs for what `arriving` overwrites, and for HEAD where no other ref holds it.
    pub(super) fn backups(&self, arriving: &RefIds<'_>) -> BTreeMap<String, String> {
        let number = |name: &String| name.strip_prefix(BACKUPS)?.split('/').next()?.parse::<u64>().ok();
        let times = self.current.keys().filter_map(number).max().map_or(1, |last| last.saturating_add(1));
        let mut lost: BTreeMap<&str, &str> = self.lost(arriving).collect();
        let stays = |id: &str| {
            let mut own = self.current.iter().filter(|(name, _)| !arriving.contains_key(name.as_str()));
            lost.values().chain(arriving.values()).any(|other| *other == id)
                || own.any(|(name, other)| other == id && !in_the_way(name, arriving))
        };
        if self.head_moved && !self.head.is_empty() && !stays(&self.head) {
            lost.insert("HEAD", &self.head);
        }
        let name = |name: &str| format!("{BACKUPS}{times}/{}", name.strip_prefix("refs/").unwrap_or(name));
        lost.into_iter().map(|(lost, id)| (name(lost), id.to_owned())).collect()
    }

    /// Merges with `arriving`, which is `all` that the repository has, or a part of it.
    pub(super) fn merge(&self, arriving: &RefIds<'_>, all: bool) -> MergedRefs {
        let mut merged = MergedRefs { not_utf8: self.not_utf8.clone(), ..MergedRefs::default() };
        for (name, id) in &self.current {
            let line = format!("{id} {name}\n");
            match arriving.get(name.as_str()) {
                Some(new) if *new != id => merged.stale.push(name.clone()),
                Some(_) => {}
                // A loose file of it would remain, or be in the way of the arriving one's file.
                None if in_the_way(name, arriving) => merged.removed.push(name.clone()),
                None if !self.is_as_imported(name, id) => merged.own.push_str(&line),
                None if all => merged.removed.push(name.clone()),
                None => merged.unchanged.push_str(&line),
            }
        }
        merged
    }

    fn is_as_imported(&self, name: &str, id: &str) -> bool {
        self.imported.get(name).is_some_and(|imported| imported == id)
    }
}

/// Whether a ref is a remote-tracking branch, in which nobody works.
fn is_fetched(name: &str) -> bool {
    name.starts_with("refs/remotes/")
}

/// Whether a ref of that name cannot exist beside `arriving`: a ref is a directory to the refs below it.
fn in_the_way(name: &str, arriving: &RefIds<'_>) -> bool {
    let above = name.match_indices('/').any(|(end, _)| arriving.contains_key(&name[..end]));
    let below = format!("{name}/");
    above || arriving.range(below.as_str()..).next().is_some_and(|(next, _)| next.starts_with(&below))
}

/// Parses a line of `packed-refs`, object id, space, name, to name and id. None for anything else.
pub(super) fn line(text: &[u8]) -> Option<(&[u8], &str)> {
    let (id, name) = text.split_at(text.iter().position(|byte| *byte == b' ')?);
    let (id, name) = (std::str::from_utf8(id).ok()?, &name[1..]);
    let plain = name.starts_with(b"refs/") && !name.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f));
    let leads_out = name.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b".."));
    (super::is_id(id) && plain && !leads_out).then_some((name, id))
}

/// Formats refs as lines that [`line`] reads.
pub(super) fn lines(refs: &RefIds<'_>) -> String {
    let lines: Vec<String> = refs.iter().map(|(name, id)| format!("{id} {name}\n")).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(current: &[(&str, &str)], imported: &[(&str, &str)]) -> Refs {
        let owned = |refs: &[(&str, &str)]| refs.iter().map(|(name, id)| ((*name).into(), (*id).into())).collect();
        Refs {
            head: "7".into(),
            head_moved: true,
            current: owned(current),
            imported: owned(imported),
            ..Refs::default()
        }
    }

    #[test]
    fn what_is_not_as_it_was_brought_is_work() {
        let arriving: RefIds<'_> =
            [("refs/heads/a", "2"), ("refs/heads/d", "2"), ("refs/heads/dir/x", "2"), ("refs/remotes/origin/a", "2")]
                .into();
        let at_risk = |current: &[(&str, &str)], imported: &[(&str, &str)]| {
            refs(current, imported).at_risk(&arriving).map(str::to_owned).collect::<Vec<_>>()
        };
        let imported = [("refs/heads/a", "1"), ("refs/heads/d", "1")];
        assert_eq!(at_risk(&imported, &imported), [""; 0]);
        assert_eq!(at_risk(&[("refs/heads/a", "9"), ("refs/heads/d", "2")], &imported), ["refs/heads/a"]);
        // Work at HEAD is reported by other means.
        assert_eq!(at_risk(&[("refs/heads/a", "7")], &imported), [""; 0]);
        // Nothing is recorded of these.
        assert_eq!(at_risk(&[("refs/heads/a", "1")], &[]), ["refs/heads/a"]);
        // Refs of the guest's own, and such ones where an arriving name has to be.
        assert_eq!(at_risk(&[("refs/heads/own", "9"), ("refs/stash", "9")], &imported), [""; 0]);
        for name in ["refs/heads/a/own", "refs/heads/dir"] {
            assert_eq!(at_risk(&[(name, "9")], &imported), [name]);
        }
        assert_eq!(at_risk(&[("refs/remotes/origin/a", "9")], &imported), [""; 0]);
    }

    #[test]
    fn what_is_overwritten_stays_under_another_name() {
        let arriving: RefIds<'_> = [("refs/heads/a", "2"), ("refs/heads/dir/x", "2"), ("refs/tags/t", "2")].into();
        let current = [("refs/heads/a", "9"), ("refs/heads/dir", "8"), ("refs/heads/own", "6"), ("refs/tags/t", "5")];
        let mut refs = refs(&current, &[("refs/tags/t", "5")]);
        let backups = |refs: &Refs| {
            let backups = refs.backups(&arriving).into_iter();
            backups.map(|(name, id)| format!("{name} {id}")).collect::<Vec<_>>()
        };
        let before = |number: u32, more: &[&str]| {
            let names = more.iter().chain(&["heads/a 9", "heads/dir 8"]);
            names.map(|name| format!("refs/banger/before/{number}/{name}")).collect::<Vec<_>>()
        };
        assert_eq!(backups(&refs), before(1, &["HEAD 7"]));
        for (name, id) in [("refs/banger/before/9/heads/a", "3"), ("refs/banger/before/10/HEAD", "4")] {
            refs.current.insert(name.into(), id.into());
        }
        assert_eq!(backups(&refs), before(11, &["HEAD 7"]));
        // HEAD is on a branch that stays or has a backup, or where it was imported.
        for head in ["6", "9", "2", ""] {
            refs.head = head.into();
            assert_eq!(backups(&refs), before(11, &[]), "{head}");
        }
        (refs.head, refs.head_moved) = ("9".into(), false);
        assert_eq!(backups(&refs), before(11, &[])[1..]);
        refs.missing.insert("8".into());
        assert_eq!(backups(&refs), [""; 0]);
    }

    #[test]
    fn what_stays_goes_and_is_overwritten() {
        let arriving: RefIds<'_> = [("refs/heads/a", "2"), ("refs/heads/b", "1")].into();
        let current = [
            ("refs/heads/a", "1"),
            ("refs/heads/b", "1"),
            ("refs/heads/b/c", "9"),
            ("refs/heads/left", "1"),
            ("refs/heads/own", "9"),
        ];
        let refs = refs(&current, &[("refs/heads/a", "1"), ("refs/heads/left", "1"), ("refs/heads/own", "1")]);
        let merged = refs.merge(&arriving, true);
        assert_eq!((merged.own.as_str(), merged.unchanged.as_str()), ("9 refs/heads/own\n", ""));
        assert_eq!(merged.stale, ["refs/heads/a"]);
        assert_eq!(merged.removed, ["refs/heads/b/c", "refs/heads/left"]);
        let merged = refs.merge(&arriving, false);
        assert_eq!((merged.unchanged.as_str(), merged.removed), ("1 refs/heads/left\n", vec!["refs/heads/b/c".into()]));
    }

    #[test]
    fn a_line_is_an_object_and_a_name() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        for name in ["refs/heads/a-b", "refs/heads/\u{a0}\u{2028}"] {
            assert_eq!(line(format!("{id} {name}").as_bytes()), Some((name.as_bytes(), id)));
        }
        assert_eq!(line(&[id.as_bytes(), b" refs/\xff"].concat()), Some((&b"refs/\xff"[..], id)));
        for name in ["heads/a", "refs/../x", "refs/heads//a", "refs/heads/a b", "refs/a\u{1b}", "refs/a\u{7f}"] {
            assert_eq!(line(format!("{id} {name}").as_bytes()), None, "{name}");
        }
        assert_eq!(line(b"x refs/heads/a"), None);
    }
}
