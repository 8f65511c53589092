//! What stands in a guest where a workspace was, as the guest's git says.

use super::{
    changes::{RepoPath, pieces},
    is_id,
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
    /// Files that the index names, submodules' too.
    pub(super) files: Vec<RepoPath>,
    /// Refs of the repository, and of its submodules by their paths.
    pub(super) refs: BTreeMap<RepoPath, Refs>,
}

/// What a guest did to a workspace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// To files that git looks at, or to the commit HEAD is at.
    pub(super) tree: bool,
    /// To what is staged, and stands nowhere else.
    pub(super) staged: bool,
    /// To files that git is told not to look at.
    pub(super) unwatched: bool,
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
        let mut failure = Failure::new(Code::Conflict, format!("{path} in VM {vm} was worked in"));
        let mut parts = Vec::new();
        if let Some(first) = self.submodules.first() {
            parts.push(format!("in {}", some(&format!("the submodule {}", quoted(first)), self.submodules.len())));
        }
        if self.staged {
            parts.push("in what is staged".to_owned());
        }
        if self.unwatched {
            parts.push("in files that git is told not to look at".to_owned());
        }
        if let Some(first) = self.refs.first() {
            parts.push(format!("on {}", some(first, self.refs.len())));
        }
        if parts.is_empty() {
            return failure.hint(format!("banger vm workspace export {vm} saves that work"));
        }
        failure = failure.cause(parts.join(", "));
        failure.hint(format!("banger vm cp {vm}:{path} DIR saves all of it; an export leaves that out"))
    }
}

fn some(first: &str, count: usize) -> String {
    if count == 1 { first.to_owned() } else { format!("{first} and {} more", count - 1) }
}

/// What one repository says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) tree: bool,
    pub(super) staged: bool,
    pub(super) unwatched: bool,
    pub(super) refs: Refs,
    pub(super) files: Vec<RepoPath>,
    pub(super) submodules: Vec<RepoPath>,
}

impl Looked {
    pub(super) fn read(mut answer: &[u8]) -> Option<Self> {
        let mut line = || {
            let end = answer.iter().position(|byte| *byte == b'\n')?;
            let (line, rest) = answer.split_at(end);
            answer = &rest[1..];
            std::str::from_utf8(line).ok()
        };
        let (mut tree, mut staged, mut unwatched) = (false, false, false);
        for word in line()?.split(' ') {
            match word {
                "same" => {}
                "staged" => staged = true,
                "unwatched" => unwatched = true,
                _ => tree = true,
            }
        }
        let head = line()?.to_owned();
        if !head.is_empty() && !is_id(&head) {
            return None;
        }
        let mut refs = Refs { head, ..Refs::default() };
        for list in [&mut refs.is, &mut refs.brought] {
            while let Some(said) = Some(line()?).filter(|said| !said.is_empty()) {
                let (name, id) = refs::line(said)?;
                if !name.starts_with("refs/banger/") {
                    list.insert(name.to_owned(), id.to_owned());
                }
            }
        }
        let (mut files, mut submodules) = (Vec::new(), Vec::new());
        for entry in pieces(answer) {
            let tab = entry.iter().position(|byte| *byte == b'\t')?;
            let to = if entry.starts_with(b"160000 ") { &mut submodules } else { &mut files };
            to.push(entry[tab + 1..].to_vec());
        }
        Some(Self { tree, staged, unwatched, refs, files, submodules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_says_what_it_is() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let said = format!(
            "same unwatched\n{id}\n{id} refs/heads/wip\n{id} refs/banger/base\n\n{id} refs/heads/main\n\n100644 {id} 0\ta b\0160000 \
             {id} 0\tsub\0"
        );
        let looked = Looked::read(said.as_bytes()).unwrap();
        assert!(looked.unwatched && !looked.tree && looked.refs.head == id);
        assert_eq!(looked.refs.is, [("refs/heads/wip".to_owned(), id.to_owned())].into());
        assert_eq!(looked.refs.brought, [("refs/heads/main".to_owned(), id.to_owned())].into());
        assert_eq!((looked.files, looked.submodules), (vec![b"a b".to_vec()], vec![b"sub".to_vec()]));
        let looked = Looked::read(b"same tree\n\n\n\n").unwrap();
        assert!(looked.tree && !looked.unwatched);
        for bad in
            ["", "same", "same\n", "same\n\n\n", "same\n\nx refs/heads/a\n\n\n", "same\n\n\n\nx\0", "same\nx\n\n\n"]
        {
            assert_eq!(Looked::read(bad.as_bytes()), None, "{bad:?}");
        }
        let evil = format!("same\n\n{id} refs/heads/a\u{2028}b\n\n\n");
        assert_eq!(Looked::read(evil.as_bytes()), None);
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
            (Work { submodules: vec![b"libs/x".to_vec()], tree: true, ..Work::default() }, "the submodule libs/x"),
            (Work { refs: names(), ..Work::default() }, "on refs/heads/a and 1 more"),
        ] {
            let failure = work.refuse("w", "/r");
            assert!(failure.causes.concat().contains(cause), "{failure:?}");
            assert!(failure.hints.concat().contains("banger vm cp w:/r DIR saves all"), "{failure:?}");
        }
    }
}
