//! State of an imported workspace in a guest, as the guest's git reports it.

use super::{
    changes::RepoPath,
    guest_config::GuestConfig,
    is_id,
    quote::quoted,
    refs::{self, Refs},
};
use banger_proto::failure::{Code, Failure};
use std::collections::BTreeMap;

/// State of a workspace in a guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestState {
    /// Work of the guest's that an import would overwrite.
    pub(super) changes: GuestChanges,
    /// Files that the index names or that were imported, submodules' included.
    pub(super) files: Vec<RepoPath>,
    /// The repository (at the empty path) and its submodules.
    pub(super) repositories: BTreeMap<RepoPath, GuestRepository>,
}

/// State of one repository in a guest besides its files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GuestRepository {
    pub(super) refs: Refs,
    /// Commits at which its history is cut off.
    pub(super) shallow: Vec<String>,
    /// Commits whose parents are in the repository.
    pub(super) with_parents: Vec<String>,
    /// Configuration and rules that the guest may have changed.
    pub(super) config: GuestConfig,
}

/// Kinds of work in a workspace that is not in the host's repository.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a place where there may be work")]
pub(crate) struct GuestChanges {
    /// In files that git compares, or in the commit HEAD is at.
    pub(super) tree: bool,
    /// Why git cannot read all of its files, if it cannot.
    pub(super) unread: Option<String>,
    /// In what is staged and nowhere else.
    pub(super) staged: bool,
    /// In files that git takes for unchanged (`--assume-unchanged`, `--skip-worktree`).
    pub(super) assumed: bool,
    /// In a merge, a rebase or the like that is not finished.
    pub(super) busy: bool,
    /// In submodules.
    pub(super) submodules: Vec<RepoPath>,
    /// On branches that would be overwritten.
    pub(super) refs: Vec<String>,
}

impl GuestChanges {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes the refusal to overwrite this work: where it is, and which command saves it.
    pub(super) fn refuse(&self, vm: &str, path: &str) -> Failure {
        let (mut parts, mut did) = (Vec::new(), "was worked in");
        if let Some(first) = self.submodules.first() {
            parts.push(format!("in {}", some(&format!("the submodule {}", quoted(first)), self.submodules.len())));
        }
        if self.staged {
            parts.push("in what is staged".to_owned());
        }
        if self.assumed {
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

/// Formats the first of `count` names and the number of the others.
pub(super) fn some(first: &str, count: usize) -> String {
    if count == 1 { first.to_owned() } else { format!("{first} and {} more", count - 1) }
}

/// Report of the inspection script about one repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RepositoryReport {
    pub(super) changes: GuestChanges,
    /// Whether its files could not all be read.
    pub(super) unread: bool,
    pub(super) files: Vec<RepoPath>,
    pub(super) submodules: Vec<RepoPath>,
    pub(super) repository: GuestRepository,
}

impl RepositoryReport {
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let mut report = Self::default();
        let mut lines = Lines(answer);
        for word in lines.text()?.split(' ') {
            match word {
                "same" => {}
                "staged" => report.changes.staged = true,
                "unwatched" => report.changes.assumed = true,
                "busy" => report.changes.busy = true,
                "unread" => report.unread = true,
                "moved" => report.repository.refs.head_moved = true,
                _ => report.changes.tree = true,
            }
        }
        let GuestRepository { refs, shallow, with_parents, config } = &mut report.repository;
        let mut missing = Vec::new();
        lines.text()?.clone_into(&mut refs.head);
        if !refs.head.is_empty() && !is_id(&refs.head) {
            return None;
        }
        for list in [&mut refs.current, &mut refs.imported] {
            while let Some(lines) = lines.of_a_list()? {
                let (name, id) = refs::line(lines)?;
                match std::str::from_utf8(name) {
                    Ok(refs::BASE) => {}
                    Ok(name) => drop(list.insert(name.to_owned(), id.to_owned())),
                    Err(_) => refs.not_utf8.extend([lines, b"\n"].concat()),
                }
            }
        }
        for list in [&mut missing, shallow, with_parents] {
            while let Some(id) = lines.of_a_list()? {
                let id = std::str::from_utf8(id).ok().filter(|id| is_id(id))?;
                list.push(id.to_owned());
            }
        }
        refs.missing = missing.into_iter().collect();
        let mut lists = Lists(lines.0);
        for entry in lists.next()? {
            let tab = entry.iter().position(|byte| *byte == b'\t')?;
            let to = if entry.starts_with(b"160000 ") { &mut report.submodules } else { &mut report.files };
            to.push(entry[tab + 1..].to_vec());
        }
        // The index and the imported tree usually name the same files.
        for names in [&mut report.files, &mut report.submodules] {
            names.sort_unstable();
            names.dedup();
        }
        *config = GuestConfig::read(|| lists.next())?;
        // A repository that banger did not import is all somebody's work.
        refs.head_moved |= !config.was_imported();
        lists.0.is_empty().then_some(report)
    }
}

/// Lines of text.
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

    /// Returns the next line of a list, `Some(None)` at the empty line that ends it.
    #[expect(clippy::option_option, reason = "that there is none is not that it ends")]
    fn of_a_list(&mut self) -> Option<Option<&'a [u8]>> {
        Some(Some(self.next()?).filter(|line| !line.is_empty()))
    }
}

/// Lists of entries that each end with a zero byte; a list ends with one more zero byte.
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
        let lines = format!(
            "same unwatched busy\n{id}\n{id} refs/heads/wip\n{id} refs/banger/base\n{id} refs/banger/before/1/HEAD\n\n{id} refs/heads/main\n\n{id}\n\n{id}\n\n{id}\n{id}\n\n\
             100644 {id} 0\ta b\0160000 {id} 0\tsub\0100644 blob {id}\ta\0100644 blob {id}\ta b\0160000 commit {id}\tsub\0\0a.b\nc\0\0\0mine\0\0\0\0\0"
        );
        let RepositoryReport { changes, unread, files, submodules, repository } =
            RepositoryReport::read(lines.as_bytes()).unwrap();
        assert_eq!(changes, GuestChanges { assumed: true, busy: true, ..GuestChanges::default() });
        assert!(!unread && repository.refs.head == id);
        let is = ["refs/banger/before/1/HEAD", "refs/heads/wip"].map(|name| (name.to_owned(), id.to_owned()));
        assert_eq!(repository.refs.current, is.into());
        assert_eq!(repository.refs.imported, [("refs/heads/main".to_owned(), id.to_owned())].into());
        assert_eq!((files, submodules), (vec![b"a".to_vec(), b"a b".to_vec()], vec![b"sub".to_vec()]));
        assert_eq!((repository.refs.missing.len(), repository.shallow.len(), repository.with_parents.len()), (1, 1, 2));
        assert_ne!(repository.config, GuestConfig::default());
        let (end, imported) = ("\n\n\0\0\0\0\0\0\0", "\n\n\0\0a.b\nc\0\0\0\0\0\0");
        let report = RepositoryReport::read(format!("same tree unread\n\n\n\n\n{imported}").as_bytes()).unwrap();
        assert!(report.changes.tree && report.unread && !report.changes.assumed);
        assert!(!report.repository.refs.head_moved);
        for lines in [format!("same moved tree\n{id}\n\n\n\n{imported}"), format!("same tree\n{id}\n\n\n\n{end}")] {
            let report = RepositoryReport::read(lines.as_bytes()).unwrap();
            assert!(report.changes.tree && report.repository.refs.head_moved);
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
            assert_eq!(RepositoryReport::read(bad.as_bytes()), None, "{bad:?}");
        }
        let odd = [format!("same\n\n{id} refs/").as_bytes(), b"\xff\n\n\n\n", end.as_bytes()].concat();
        let report = RepositoryReport::read(&odd).unwrap();
        assert_eq!(report.repository.refs.not_utf8, [id.as_bytes(), b" refs/\xff\n"].concat());
    }

    /// An export saves changes of the tree; for everything else only a copy does.
    #[test]
    fn a_refusal_says_what_saves_the_work() {
        let tree = GuestChanges { tree: true, ..GuestChanges::default() };
        assert!(tree.refuse("w", "/r").to_string().contains("was worked in"));
        assert!(tree.refuse("w", "/r").hints.concat().contains("workspace export w saves"));
        let names = || vec!["refs/heads/a".to_owned(), "refs/heads/b".to_owned()];
        for (changes, cause) in [
            (GuestChanges { staged: true, ..GuestChanges::default() }, "in what is staged"),
            (GuestChanges { assumed: true, ..GuestChanges::default() }, "told not to look at"),
            (GuestChanges { busy: true, ..GuestChanges::default() }, "in a merge, a rebase"),
            (
                GuestChanges { submodules: vec![b"libs/x".to_vec()], tree: true, ..GuestChanges::default() },
                "the submodule libs/x",
            ),
            (GuestChanges { refs: names(), ..GuestChanges::default() }, "on refs/heads/a and 1 more"),
            (
                GuestChanges { unread: Some("no room".into()), ..GuestChanges::default() },
                "look at all of its files: no room",
            ),
        ] {
            let failure = changes.refuse("w", "/r");
            assert!(failure.causes.concat().contains(cause), "{failure:?}");
            assert!(failure.hints.concat().contains("banger vm cp w:/r DIR saves all"), "{failure:?}");
        }
    }
}
