//! Refuses patches that write into, or make, another repository in the tree: git believes what it finds there, hooks
//! and configuration, as soon as somebody works in that directory.
//!
//! To git a directory is a repository when there is a `.git` in it, or when it has the parts of a git directory.

use super::{
    patch::{Summary, directories, folded, parents, refused},
    quote::quoted,
};
use banger_proto::failure::Failure;
use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Parts of a git directory: a file, and with it another one that says where the rest is, or two directories.
const FILES: [&str; 2] = ["head", "commondir"];
const DIRECTORIES: [&str; 2] = ["objects", "refs"];

/// Refuses a patch for the tree at `root`, or for any tree, that touches files of another repository.
pub(super) fn check(summary: &Summary, root: Option<&Path>) -> Result<(), Failure> {
    let made = GitDirParts::of(summary, root);
    for (path, dir) in directories(&summary.files) {
        let there = on_host(root, dir);
        let is_tree = there.as_ref().is_some_and(|there| there.join(".git").symlink_metadata().is_ok());
        if is_tree || made.is_git_dir(&folded(dir), there.as_deref()) {
            return Err(refused(path, &format!("it is in another repository, {}", quoted(dir))));
        }
    }
    Ok(())
}

fn on_host(root: Option<&Path>, dir: &[u8]) -> Option<PathBuf> {
    root.map(|root| root.join(OsStr::from_bytes(dir)))
}

/// Case-folded directories with the parts of a git directory that a patch makes in them. A path may have thousands of
/// directories, so objects and refs are remembered only beside a `HEAD`, without which they are no repository.
struct GitDirParts(HashMap<String, HashSet<&'static str>>);

impl GitDirParts {
    fn of(summary: &Summary, root: Option<&Path>) -> Self {
        let mut made: HashMap<String, HashSet<&'static str>> = HashMap::new();
        for path in &summary.files {
            let path = folded(path);
            let Some((dir, name)) = path.rsplit_once('/') else { continue };
            if let Some(part) = FILES.iter().find(|part| **part == name) {
                made.entry(dir.to_owned()).or_default().insert(*part);
            }
        }
        let dirs = directories(&summary.files).map(|(_, dir)| dir);
        for path in summary.files.iter().map(Vec::as_slice).chain(dirs) {
            let Some(dir) = parents(path).next() else { continue };
            let name = folded(&path[dir.len() + 1..]);
            let Some(part) = DIRECTORIES.iter().find(|part| **part == name) else { continue };
            let key = folded(dir);
            if let Some(parts) = made.get_mut(&key) {
                parts.insert(*part);
            } else if on_host(root, dir).is_some_and(|there| there.join("HEAD").symlink_metadata().is_ok()) {
                made.insert(key, HashSet::from([*part]));
            }
        }
        Self(made)
    }

    /// Whether git would take a case-folded directory for a git directory, with the host's directory `there` and the
    /// parts that the patch adds.
    fn is_git_dir(&self, dir: &str, there: Option<&Path>) -> bool {
        let made = self.0.get(dir);
        let has = |part: &'static str| {
            let name = if part == "head" { "HEAD" } else { part };
            let found = there.and_then(|there| there.join(name).symlink_metadata().ok());
            let is_there = found.is_some_and(|meta| !meta.is_dir() || DIRECTORIES.contains(&part));
            is_there || made.is_some_and(|made| made.contains(part))
        };
        has("head") && (has("commondir") || DIRECTORIES.into_iter().all(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touching(paths: &[&str]) -> Summary {
        let files = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        Summary { files, ..Summary::default() }
    }

    fn refusal(paths: &[&str], root: Option<&Path>) -> Option<String> {
        check(&touching(paths), root).err().map(|failure| failure.message)
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
    #[test]
    fn a_path_of_many_directories_is_no_load() {
        let long = format!("n/{}x", "refs/objects/".repeat(300));
        let (long, long_head) = (long.as_str(), &*format!("{long}/HEAD"));
        for (paths, remembered) in
            [([long, "n/x"], 0), ([long, "n/HEAD"], 1), ([long, "n/commondir"], 1), ([long_head, "n/x"], 1)]
        {
            let summary = touching(&paths);
            assert_eq!(GitDirParts::of(&summary, None).0.len(), remembered, "{paths:?}");
            assert!(check(&summary, None).is_ok(), "{paths:?}");
        }
        // Each directory is checked, also behind paths that lead through it.
        assert!(refusal(&["n/a/x", "n/a/y", "n/b/HEAD", "n/b/commondir", "n/b/x"], None).is_some());
        assert!(refusal(&[long, "n/refs/HEAD", "n/refs/objects/HEAD", "n/refs/refs/x"], None).is_some());
    }
}
