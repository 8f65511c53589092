//! Branches, tags and other refs of a workspace: which of them hold work of the guest's own, and what becomes of them when
//! the repository is brought again.
//!
//! What was brought is written down beside them. A ref that is no longer what it was then is the guest's work, wherever
//! HEAD is; one that came from there all the same is git's to fetch again.

use std::collections::{BTreeMap, HashSet};

/// The file in a git directory that says what was brought.
pub(super) const BROUGHT: &str = "banger-refs";
/// And the one that says which commit HEAD was at then.
pub(super) const HEAD: &str = "banger-head";

/// The ref of banger's own that holds the tree as it was brought.
pub(super) const BASE: &str = "refs/banger/base";
/// Where refs of banger's own are: they are about one workspace, and do not travel.
pub(super) const BANGERS: &str = "refs/banger/";
/// Below this, a number for each time, stands what refs were that something was brought over.
const BEFORE: &str = "refs/banger/before/";

/// Objects by the names of refs.
pub(super) type Named<'a> = BTreeMap<&'a str, &'a str>;

/// The refs of one repository in a guest.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Refs {
    /// The commit HEAD is at, if any: whether that is work is seen without refs.
    pub(super) head: String,
    /// Whether that is another one than was brought, or nothing was.
    pub(super) moved: bool,
    /// What they are.
    pub(super) is: BTreeMap<String, String>,
    /// What they were when they were brought.
    pub(super) brought: BTreeMap<String, String>,
    /// Objects that they name and that are not there: somebody was interrupted, and there is nothing to lose.
    pub(super) missing: HashSet<String>,
    /// Those whose names are no text, a line each: nothing that arrives is called so, and they stay.
    pub(super) odd: Vec<u8>,
}

/// What becomes of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Those that stay the guest's own: object and name, a line each.
    pub(super) own: String,
    /// Of those, the ones whose names are no text.
    pub(super) odd: Vec<u8>,
    /// Those that may stand in a file of their own, which says something else than what arrives.
    pub(super) stale: Vec<String>,
    /// Those that came from the repository, which has them no longer, and those that are in the way of what it has.
    pub(super) gone: Vec<String>,
    /// What was brought earlier, does not arrive, and is still as it was: a line each.
    pub(super) brought: String,
}

impl Refs {
    /// Names of those that hold work which would be lost under what arrives. Work at HEAD is seen without them.
    pub(super) fn at_stake<'a>(&'a self, arriving: &'a Named<'_>) -> impl Iterator<Item = &'a str> {
        self.lost(arriving).filter(|(_, id)| *id != self.head).map(|(name, _)| name)
    }

    /// Those that hold work and say something else, or are gone, under what arrives.
    fn lost<'a>(&'a self, arriving: &'a Named<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let worked_in = |name: &str, id: &str| {
            let counts = (self.moved || id != self.head) && !self.missing.contains(id);
            counts && !is_fetched(name) && !self.is_as_brought(name, id)
        };
        let lost = |name: &str, id: &str| match arriving.get(name) {
            Some(new) => *new != id,
            None => in_the_way(name, arriving),
        };
        let refs = self.is.iter().map(|(name, id)| (name.as_str(), id.as_str()));
        refs.filter(move |(name, id)| worked_in(name, id) && lost(name, id))
    }

    /// What is lost under `arriving`, and HEAD where no other has it, by the names under which it stays.
    pub(super) fn saved(&self, arriving: &Named<'_>) -> BTreeMap<String, String> {
        let number = |name: &String| name.strip_prefix(BEFORE)?.split('/').next()?.parse::<u64>().ok();
        let times = self.is.keys().filter_map(number).max().map_or(1, |last| last.saturating_add(1));
        let mut lost: BTreeMap<&str, &str> = self.lost(arriving).collect();
        let stays = |id: &str| {
            let mut own = self.is.iter().filter(|(name, _)| !arriving.contains_key(name.as_str()));
            lost.values().chain(arriving.values()).any(|other| *other == id)
                || own.any(|(name, other)| other == id && !in_the_way(name, arriving))
        };
        if self.moved && !self.head.is_empty() && !stays(&self.head) {
            lost.insert("HEAD", &self.head);
        }
        let name = |name: &str| format!("{BEFORE}{times}/{}", name.strip_prefix("refs/").unwrap_or(name));
        lost.into_iter().map(|(lost, id)| (name(lost), id.to_owned())).collect()
    }

    /// What becomes of them under `arriving`, which is all that the repository has, or only a part.
    pub(super) fn kept(&self, arriving: &Named<'_>, all: bool) -> Kept {
        let mut kept = Kept { odd: self.odd.clone(), ..Kept::default() };
        for (name, id) in &self.is {
            let line = format!("{id} {name}\n");
            match arriving.get(name.as_str()) {
                Some(new) if *new != id => kept.stale.push(name.clone()),
                Some(_) => {}
                // In a file of its own it would be there still, or in the way of the file that arrives.
                None if in_the_way(name, arriving) => kept.gone.push(name.clone()),
                None if !self.is_as_brought(name, id) => kept.own.push_str(&line),
                None if all => kept.gone.push(name.clone()),
                None => kept.brought.push_str(&line),
            }
        }
        kept
    }

    fn is_as_brought(&self, name: &str, id: &str) -> bool {
        self.brought.get(name).is_some_and(|brought| brought == id)
    }
}

/// Whether it says where something else's branch is: nobody works there.
fn is_fetched(name: &str) -> bool {
    name.starts_with("refs/remotes/")
}

/// Whether no ref of that name can be beside those: each is a directory to what is below it.
fn in_the_way(name: &str, arriving: &Named<'_>) -> bool {
    let above = name.match_indices('/').any(|(end, _)| arriving.contains_key(&name[..end]));
    let below = format!("{name}/");
    above || arriving.range(below.as_str()..).next().is_some_and(|(next, _)| next.starts_with(&below))
}

/// What a line says: an object, a space, the name of a ref. None when it is no such line.
pub(super) fn line(text: &[u8]) -> Option<(&[u8], &str)> {
    let (id, name) = text.split_at(text.iter().position(|byte| *byte == b' ')?);
    let (id, name) = (std::str::from_utf8(id).ok()?, &name[1..]);
    let plain = name.starts_with(b"refs/") && !name.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f));
    let leads_out = name.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b".."));
    (super::is_id(id) && plain && !leads_out).then_some((name, id))
}

/// Lines as [`line`] reads them.
pub(super) fn lines(refs: &Named<'_>) -> String {
    let lines: Vec<String> = refs.iter().map(|(name, id)| format!("{id} {name}\n")).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(is: &[(&str, &str)], brought: &[(&str, &str)]) -> Refs {
        let owned = |refs: &[(&str, &str)]| refs.iter().map(|(name, id)| ((*name).into(), (*id).into())).collect();
        Refs { head: "7".into(), moved: true, is: owned(is), brought: owned(brought), ..Refs::default() }
    }

    #[test]
    fn what_is_not_as_it_was_brought_is_work() {
        let arriving: Named<'_> =
            [("refs/heads/a", "2"), ("refs/heads/d", "2"), ("refs/heads/dir/x", "2"), ("refs/remotes/origin/a", "2")]
                .into();
        let at_stake = |is: &[(&str, &str)], brought: &[(&str, &str)]| {
            refs(is, brought).at_stake(&arriving).map(str::to_owned).collect::<Vec<_>>()
        };
        let brought = [("refs/heads/a", "1"), ("refs/heads/d", "1")];
        assert_eq!(at_stake(&brought, &brought), [""; 0]);
        assert_eq!(at_stake(&[("refs/heads/a", "9"), ("refs/heads/d", "2")], &brought), ["refs/heads/a"]);
        // What HEAD is at is looked at anyway.
        assert_eq!(at_stake(&[("refs/heads/a", "7")], &brought), [""; 0]);
        // Nobody knows what these were.
        assert_eq!(at_stake(&[("refs/heads/a", "1")], &[]), ["refs/heads/a"]);
        // The guest's own, and the same where a name of the repository's has to be.
        assert_eq!(at_stake(&[("refs/heads/own", "9"), ("refs/stash", "9")], &brought), [""; 0]);
        for name in ["refs/heads/a/own", "refs/heads/dir"] {
            assert_eq!(at_stake(&[(name, "9")], &brought), [name]);
        }
        assert_eq!(at_stake(&[("refs/remotes/origin/a", "9")], &brought), [""; 0]);
    }

    #[test]
    fn what_is_overwritten_stays_under_another_name() {
        let arriving: Named<'_> = [("refs/heads/a", "2"), ("refs/heads/dir/x", "2"), ("refs/tags/t", "2")].into();
        let is = [("refs/heads/a", "9"), ("refs/heads/dir", "8"), ("refs/heads/own", "6"), ("refs/tags/t", "5")];
        let mut refs = refs(&is, &[("refs/tags/t", "5")]);
        let saved = |refs: &Refs| {
            let saved = refs.saved(&arriving).into_iter();
            saved.map(|(name, id)| format!("{name} {id}")).collect::<Vec<_>>()
        };
        let before = |number: u32, more: &[&str]| {
            let names = more.iter().chain(&["heads/a 9", "heads/dir 8"]);
            names.map(|name| format!("refs/banger/before/{number}/{name}")).collect::<Vec<_>>()
        };
        assert_eq!(saved(&refs), before(1, &["HEAD 7"]));
        for (name, id) in [("refs/banger/before/9/heads/a", "3"), ("refs/banger/before/10/HEAD", "4")] {
            refs.is.insert(name.into(), id.into());
        }
        assert_eq!(saved(&refs), before(11, &["HEAD 7"]));
        // HEAD is on a branch that stays, or that is among them, or where it was brought.
        for head in ["6", "9", "2", ""] {
            refs.head = head.into();
            assert_eq!(saved(&refs), before(11, &[]), "{head}");
        }
        (refs.head, refs.moved) = ("9".into(), false);
        assert_eq!(saved(&refs), before(11, &[])[1..]);
        refs.missing.insert("8".into());
        assert_eq!(saved(&refs), [""; 0]);
    }

    #[test]
    fn what_stays_goes_and_is_overwritten() {
        let arriving: Named<'_> = [("refs/heads/a", "2"), ("refs/heads/b", "1")].into();
        let is = [
            ("refs/heads/a", "1"),
            ("refs/heads/b", "1"),
            ("refs/heads/b/c", "9"),
            ("refs/heads/left", "1"),
            ("refs/heads/own", "9"),
        ];
        let refs = refs(&is, &[("refs/heads/a", "1"), ("refs/heads/left", "1"), ("refs/heads/own", "1")]);
        let kept = refs.kept(&arriving, true);
        assert_eq!((kept.own.as_str(), kept.brought.as_str()), ("9 refs/heads/own\n", ""));
        assert_eq!(kept.stale, ["refs/heads/a"]);
        assert_eq!(kept.gone, ["refs/heads/b/c", "refs/heads/left"]);
        let kept = refs.kept(&arriving, false);
        assert_eq!((kept.brought.as_str(), kept.gone), ("1 refs/heads/left\n", vec!["refs/heads/b/c".into()]));
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
