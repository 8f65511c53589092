//! Protected files and directories of a tree, under all names and links by which they are reached.

use super::super::patch::folded;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Most symbolic links on one path, as for the kernel.
const MAX_LINKS: usize = 40;

/// Protected files and directories, each with a reason. Paths are case-folded, since a file system may take two of them
/// for one.
#[derive(Debug, Default)]
pub(super) struct ProtectedPaths {
    /// Known paths of the tree's root.
    roots: Vec<PathBuf>,
    known: BTreeMap<String, Protected>,
}

#[derive(Debug)]
struct Protected {
    why: String,
    /// Whether everything below it is protected, too.
    is_dir: bool,
}

impl ProtectedPaths {
    /// Makes an empty set for the tree at `root`; without a root, for any tree.
    pub(super) fn of(root: Option<&Path>) -> Self {
        let names = root.into_iter().flat_map(|root| [Some(root.to_owned()), root.canonicalize().ok()]);
        Self { roots: names.flatten().collect(), known: BTreeMap::new() }
    }

    /// Returns the root of the tree, if there is one.
    pub(super) fn root(&self) -> Option<&Path> {
        self.roots.first().map(PathBuf::as_path)
    }

    /// Returns all paths in the tree by which `path` is reached.
    pub(super) fn paths_to(&self, path: &Path) -> Vec<PathBuf> {
        let names: Vec<PathBuf> = self.absolute(path).iter().flat_map(|path| all_paths(path)).collect();
        names.iter().flat_map(|name| self.roots.iter().filter_map(move |root| below(name, root))).collect()
    }

    /// Whether `path` is the root of the tree.
    pub(super) fn is_top(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.roots.iter().any(|root| root == path)
    }

    /// Makes `path` absolute; a relative one counts from each root.
    pub(super) fn absolute(&self, path: &Path) -> Vec<PathBuf> {
        if path.is_absolute() { vec![path.to_owned()] } else { self.roots.iter().map(|root| root.join(path)).collect() }
    }

    /// Protects a file, if it is in the tree or its path leads through the tree.
    pub(super) fn file(&mut self, path: &Path, why: &str) {
        self.add(path, why, false);
    }

    /// Protects a directory with all that is in it.
    pub(super) fn dir(&mut self, path: &Path, why: &str) {
        self.add(path, why, true);
    }

    fn add(&mut self, path: &Path, why: &str, is_dir: bool) {
        let mut names = self.paths_to(path);
        // Without a root, a path that begins with `..` is outside of any tree.
        if self.roots.is_empty() && path.is_relative() && path.components().next() != Some(Component::ParentDir) {
            names.extend(below(&plain(&Path::new("/").join(path)), Path::new("/")));
        }
        // The root itself is no file.
        for name in names.into_iter().filter(|name| is_dir || !name.as_os_str().is_empty()) {
            let new = Protected { why: why.to_owned(), is_dir };
            let known = self.known.entry(folded(name.as_os_str().as_bytes())).or_insert(new);
            known.is_dir |= is_dir;
        }
    }

    /// Returns why a case-folded path is protected: it is a protected one, is below one, or is a directory above one,
    /// where a link would lead elsewhere.
    pub(super) fn reason(&self, path: &str) -> Option<&str> {
        let found = self.known.iter().find(|(known, Protected { is_dir, .. })| match known.as_str() {
            // The root protects what is directly in it.
            "" => !path.contains('/'),
            known => path == known || *is_dir && is_below(path, known) || is_below(known, path),
        });
        found.map(|(_, protected)| protected.why.as_str())
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn below(path: &Path, root: &Path) -> Option<PathBuf> {
    path.strip_prefix(root).ok().map(Path::to_owned)
}

/// Returns the paths by which an absolute path is reached: itself, and another one for each link on the way, whether
/// the target exists or not.
fn all_paths(path: &Path) -> Vec<PathBuf> {
    let (mut names, mut links) = (vec![plain(path)], 0);
    let (mut at, mut rest) = (PathBuf::new(), path.to_owned());
    loop {
        let mut parts = rest.components();
        match parts.next() {
            None => break,
            Some(Component::CurDir) => {}
            Some(Component::ParentDir) => drop(at.pop()),
            // A root component replaces what came before it.
            Some(part) => at.push(part),
        }
        let after = parts.as_path().to_owned();
        rest = match fs::read_link(&at) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                names.push(plain(&at.join(&after)));
                at.pop();
                target.join(after)
            }
            _ => after,
        };
    }
    names.push(at);
    names
}

/// Removes `.` and `..` lexically.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}
