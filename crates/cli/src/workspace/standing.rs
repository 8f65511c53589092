//! What stands in a guest where a workspace was, as the guest's git says.

use super::{
    changes::RepoPath,
    is_id,
    own::Own,
    quote::quoted,
    refs::{self, Refs},
};
use banger_proto::failure::{Code, Failure};
use std::collections::BTreeMap;

/// What stands where a workspace was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What the guest did.
    pub(super) work: Work,
    /// Files that the index names, or that were brought, submodules' too.
    pub(super) files: Vec<RepoPath>,
    /// The repository, and its submodules by their paths.
    pub(super) repositories: BTreeMap<RepoPath, Found>,
}

/// What one repository in a guest holds besides files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) refs: Refs,
    /// Commits its history is cut off at.
    pub(super) shallow: Vec<String>,
    /// Commits that have their parents there.
    pub(super) whole: Vec<String>,
    /// What its git was told.
    pub(super) own: Own,
}

/// What a guest did to a workspace.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a place where there may be work")]
pub(crate) struct Work {
    /// To files that git looks at, or to the commit HEAD is at.
    pub(super) tree: bool,
    /// Why git cannot look at its files, if it cannot.
    pub(super) unread: Option<String>,
    /// To what is staged, and stands nowhere else.
    pub(super) staged: bool,
    /// To files that git is told not to look at.
    pub(super) unwatched: bool,
    /// A merge, a rebase or the like that is not finished.
    pub(super) busy: bool,
    /// In submodules.
    pub(super) submodules: Vec<RepoPath>,
    /// On branches that would be overwritten.
    pub(super) refs: Vec<String>,
}

impl Work {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// A refusal to overwrite it: what it is, and what saves it.
    pub(super) fn refuse(&self, vm: &str, path: &str) -> Failure {
        let (mut parts, mut did) = (Vec::new(), "was worked in");
        if let Some(first) = self.submodules.first() {
            parts.push(format!("in {}", some(&format!("the submodule {}", quoted(first)), self.submodules.len())));
        }
        if self.staged {
            parts.push("in what is staged".to_owned());
        }
        if self.unwatched {
            parts.push("in files that git is told not to look at".to_owned());
        }
        if self.busy {
            parts.push("in a merge, a rebase or the like that is not finished".to_owned());
        }
        if let Some(first) = self.refs.first() {
            parts.push(format!("on {}", some(&quoted(first.as_bytes()), self.refs.len())));
        }
        if let Some(why) = &self.unread {
            if parts.is_empty() && !self.tree {
                did = "may have been worked in";
            }
            parts.push(format!("the guest's git cannot look at all of its files: {why}"));
        }
        let mut failure = Failure::new(Code::Conflict, format!("{path} in VM {vm} {did}"));
        if parts.is_empty() {
            return failure.hint(format!("banger vm workspace export {vm} saves that work"));
        }
        failure = failure.cause(parts.join(", "));
        failure.hint(format!("banger vm cp {vm}:{path} DIR saves all of it; an export leaves that out"))
    }
}

/// A name, and how many more there are.
pub(super) fn some(first: &str, count: usize) -> String {
    if count == 1 { first.to_owned() } else { format!("{first} and {} more", count - 1) }
}

/// What one repository says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) work: Work,
    /// Whether its files could not be looked at.
    pub(super) unread: bool,
    pub(super) files: Vec<RepoPath>,
    pub(super) submodules: Vec<RepoPath>,
    pub(super) found: Found,
}

impl Looked {
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let mut looked = Self::default();
        let mut lines = Lines(answer);
        for word in lines.text()?.split(' ') {
            match word {
                "same" => {}
                "staged" => looked.work.staged = true,
                "unwatched" => looked.work.unwatched = true,
                "busy" => looked.work.busy = true,
                "unread" => looked.unread = true,
                "moved" => looked.found.refs.moved = true,
                _ => looked.work.tree = true,
            }
        }
        let Found { refs, shallow, whole, own } = &mut looked.found;
        let mut missing = Vec::new();
        lines.text()?.clone_into(&mut refs.head);
        if !refs.head.is_empty() && !is_id(&refs.head) {
            return None;
        }
        for list in [&mut refs.is, &mut refs.brought] {
            while let Some(said) = lines.of_a_list()? {
                let (name, id) = refs::line(said)?;
                match std::str::from_utf8(name) {
                    Ok(refs::BASE) => {}
                    Ok(name) => drop(list.insert(name.to_owned(), id.to_owned())),
                    Err(_) => refs.odd.extend([said, b"\n"].concat()),
                }
            }
        }
        for list in [&mut missing, shallow, whole] {
            while let Some(id) = lines.of_a_list()? {
                let id = std::str::from_utf8(id).ok().filter(|id| is_id(id))?;
                list.push(id.to_owned());
            }
        }
        refs.missing = missing.into_iter().collect();
        let mut lists = Lists(lines.0);
        for entry in lists.next()? {
            let tab = entry.iter().position(|byte| *byte == b'\t')?;
            let to = if entry.starts_with(b"160000 ") { &mut looked.submodules } else { &mut looked.files };
            to.push(entry[tab + 1..].to_vec());
        }
        // As a rule the index and the tree that was brought name the same.
        for names in [&mut looked.files, &mut looked.submodules] {
            names.sort_unstable();
            names.dedup();
        }
        *own = Own::read(|| lists.next())?;
        // All of one that came in another way is somebody's work.
        refs.moved |= !own.was_brought();
        lists.0.is_empty().then_some(looked)
    }
}

/// Text, a line after the other.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(line)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }

    /// The next one of a list, which an empty one ends.
    #[expect(clippy::option_option, reason = "that there is none is not that it ends")]
    fn of_a_list(&mut self) -> Option<Option<&'a [u8]>> {
        Some(Some(self.next()?).filter(|line| !line.is_empty()))
    }
}

/// Lists one after the other: entries ended by zeroes, and one more zero.
struct Lists<'a>(&'a [u8]);

impl<'a> Lists<'a> {
    fn next(&mut self) -> Option<Vec<&'a [u8]>> {
        let mut entries = Vec::new();
        loop {
            let end = self.0.iter().position(|byte| *byte == 0)?;
            let (entry, rest) = self.0.split_at(end);
            self.0 = &rest[1..];
            if entry.is_empty() {
                return Some(entries);
            }
            entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_says_what_it_is() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let said = format!(
            "same unwatched busy\n{id}\n{id} refs/heads/wip\n{id} refs/banger/base\n{id} refs/banger/before/1/HEAD\n\n{id} refs/heads/main\n\n{id}\n\n{id}\n\n{id}\n{id}\n\n\
             100644 {id} 0\ta b\0160000 {id} 0\tsub\0100644 blob {id}\ta\0100644 blob {id}\ta b\0160000 commit {id}\tsub\0\0a.b\nc\0\0\0mine\0\0\0\0\0"
        );
        let Looked { work, unread, files, submodules, found } = Looked::read(said.as_bytes()).unwrap();
        assert_eq!(work, Work { unwatched: true, busy: true, ..Work::default() });
        assert!(!unread && found.refs.head == id);
        let is = ["refs/banger/before/1/HEAD", "refs/heads/wip"].map(|name| (name.to_owned(), id.to_owned()));
        assert_eq!(found.refs.is, is.into());
        assert_eq!(found.refs.brought, [("refs/heads/main".to_owned(), id.to_owned())].into());
        assert_eq!((files, submodules), (vec![b"a".to_vec(), b"a b".to_vec()], vec![b"sub".to_vec()]));
        assert_eq!((found.refs.missing.len(), found.shallow.len(), found.whole.len()), (1, 1, 2));
        assert_ne!(found.own, Own::default());
        let (end, brought) = ("\n\n\0\0\0\0\0\0\0", "\n\n\0\0a.b\nc\0\0\0\0\0\0");
        let looked = Looked::read(format!("same tree unread\n\n\n\n\n{brought}").as_bytes()).unwrap();
        assert!(looked.work.tree && looked.unread && !looked.work.unwatched);
        assert!(!looked.found.refs.moved);
        for said in [format!("same moved tree\n{id}\n\n\n\n{brought}"), format!("same tree\n{id}\n\n\n\n{end}")] {
            let looked = Looked::read(said.as_bytes()).unwrap();
            assert!(looked.work.tree && looked.found.refs.moved);
        }
        for bad in [
            "",
            "same",
            "same\n",
            "same\n\n\n",
            "same\n\n\n\n\n",
            "same\n\n\n\n\n\n",
            "same\n\n\n\n\n\n\n",
            &format!("same\n\nx refs/heads/a\n\n\n\n{end}"),
            &format!("same\n\n\n\nno id\n\n{end}"),
            &format!("same\n\n\n\n\n{id}\nno id\n{end}"),
            &format!("same\n\n\n\n\n\n\nx\0{}", &end[2..]),
            &format!("same\nx\n\n\n\n{end}"),
            &format!("same\n\n\n\n\n\n\n{}", &end[3..]),
            &format!("same\n\n\n\n\n{end}\0"),
        ] {
            assert_eq!(Looked::read(bad.as_bytes()), None, "{bad:?}");
        }
        let odd = [format!("same\n\n{id} refs/").as_bytes(), b"\xff\n\n\n\n", end.as_bytes()].concat();
        let looked = Looked::read(&odd).unwrap();
        assert_eq!(looked.found.refs.odd, [id.as_bytes(), b" refs/\xff\n"].concat());
    }

    /// What an export has is not what else there is.
    #[test]
    fn a_refusal_says_what_saves_the_work() {
        let tree = Work { tree: true, ..Work::default() };
        assert!(tree.refuse("w", "/r").to_string().contains("was worked in"));
        assert!(tree.refuse("w", "/r").hints.concat().contains("workspace export w saves"));
        let names = || vec!["refs/heads/a".to_owned(), "refs/heads/b".to_owned()];
        for (work, cause) in [
            (Work { staged: true, ..Work::default() }, "in what is staged"),
            (Work { unwatched: true, ..Work::default() }, "told not to look at"),
            (Work { busy: true, ..Work::default() }, "in a merge, a rebase"),
            (Work { submodules: vec![b"libs/x".to_vec()], tree: true, ..Work::default() }, "the submodule libs/x"),
            (Work { refs: names(), ..Work::default() }, "on refs/heads/a and 1 more"),
            (Work { unread: Some("no room".into()), ..Work::default() }, "look at all of its files: no room"),
        ] {
            let failure = work.refuse("w", "/r");
            assert!(failure.causes.concat().contains(cause), "{failure:?}");
            assert!(failure.hints.concat().contains("banger vm cp w:/r DIR saves all"), "{failure:?}");
        }
    }
}
