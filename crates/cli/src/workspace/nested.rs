//! Repositories in the tree that a patch would write into, or make: what git finds there it believes, hooks and
//! configuration, as soon as somebody works in that directory.
//!
//! A directory is one to git when there is a `.git` in it, or when it holds what a git directory holds.

use super::{
    patch::{Summary, folded, parents, refused},
    quote::quoted,
};
use banger_proto::failure::Failure;
use std::{collections::HashSet, ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

/// What a git directory holds: a file, and with it another one, which says where the rest is, or two directories.
const FILES: [&str; 2] = ["head", "commondir"];
const DIRECTORIES: [&str; 2] = ["objects", "refs"];

/// A refusal of a patch for the tree at `root`, or for any, that touches what is in another repository.
pub(super) fn check(summary: &Summary, root: Option<&Path>) -> Result<(), Failure> {
    let (made, mut harmless) = (Made::by(summary), HashSet::new());
    for path in &summary.files {
        for dir in parents(path) {
            if !harmless.insert(dir) {
                continue;
            }
            let there = root.map(|root| root.join(OsStr::from_bytes(dir)));
            let is_tree = there.as_ref().is_some_and(|there| there.join(".git").symlink_metadata().is_ok());
            if is_tree || made.is_git_dir(dir, there.as_deref()) {
                return Err(refused(path, &format!("it is in another repository, {}", quoted(dir))));
            }
        }
    }
    Ok(())
}

/// Parts of git directories that a patch touches, each with the directory it is in, folded.
struct Made(HashSet<(String, &'static str)>);

impl Made {
    fn by(summary: &Summary) -> Self {
        let mut made = HashSet::new();
        for path in &summary.files {
            let path = folded(path);
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            for end in ends {
                let Some((dir, name)) = path[..end].rsplit_once('/') else { continue };
                let files = FILES.iter().filter(|_| end == path.len());
                if let Some(part) = files.chain(&DIRECTORIES).find(|part| **part == name) {
                    made.insert((dir.to_owned(), *part));
                }
            }
        }
        Self(made)
    }

    /// Whether git would take a directory for a git directory, with what is `there` and what the patch adds.
    fn is_git_dir(&self, dir: &[u8], there: Option<&Path>) -> bool {
        let dir = folded(dir);
        let has = |part: &'static str| {
            let name = if part == "head" { "HEAD" } else { part };
            let found = there.and_then(|there| there.join(name).symlink_metadata().ok());
            let is_there = found.is_some_and(|meta| !meta.is_dir() || DIRECTORIES.contains(&part));
            is_there || self.0.contains(&(dir.clone(), part))
        };
        has("head") && (has("commondir") || DIRECTORIES.into_iter().all(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn refusal(paths: &[&str], root: Option<&Path>) -> Option<String> {
        let files = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        check(&Summary { files, ..Summary::default() }, root).err().map(|failure| failure.message)
    }

    #[test]
    fn a_repository_in_the_tree_is_somebody_elses() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for dir in [".git", "sub", "clone/.git", "plain", "bare/objects", "bare/refs", "part/refs", "odd/HEAD"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        // As in a submodule or a worktree.
        fs::write(root.join("sub/.git"), "gitdir: ../.git/modules/sub\n").unwrap();
        for file in ["bare/HEAD", "part/HEAD"] {
            fs::write(root.join(file), "ref: refs/heads/main\n").unwrap();
        }
        for (path, dir) in [
            ("sub/.githooks/pre-commit", "sub"),
            ("clone/x", "clone"),
            ("bare/config", "bare"),
            ("bare/hooks/update", "bare"),
            ("part/objects/x", "part"),
            ("part/commondir", "part"),
        ] {
            let refusal = refusal(&["a", path], Some(root)).unwrap_or_default();
            assert!(refusal.contains(path) && refusal.ends_with(&format!("in another repository, {dir}")), "{refusal}");
        }
        for paths in [["x", "plain/x"], ["subs/x", "part/x"], ["odd/objects/x", "odd/refs/x"]] {
            assert_eq!(refusal(&paths, Some(root)), None, "{paths:?}");
        }
    }

    #[test]
    fn a_patch_makes_no_repository() {
        for paths in [
            ["x/HEAD", "x/config", "x/objects/k", "x/refs/k"].as_slice(),
            &["a/x/Head", "A/x/objects", "a/X/REFS/heads/k"],
            // The rest is elsewhere.
            &["x/HEAD", "x/commondir"],
        ] {
            assert!(refusal(paths, None).is_some(), "{paths:?}");
        }
        for paths in [
            ["HEAD", "objects/k", "refs/k"].as_slice(),
            &["x/HEAD", "x/objects/k", "y/refs/k"],
            &["x/HEAD/a", "x/objects/k", "x/refs/k"],
            &["x/HEADS", "x/objects/k", "x/refs/k"],
            &["x/commondir", "x/objects/k", "x/refs/k"],
        ] {
            assert_eq!(refusal(paths, None), None, "{paths:?}");
        }
    }
}
