//! Places in a tree, by whatever names and links they are reached.

use super::super::patch::folded;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Most links on one way, as for the kernel.
const MAX_LINKS: usize = 40;

/// Files and directories of a tree, each with a reason. Names are folded, as another file system may take them for the same.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The tree, by each name it is known to have.
    roots: Vec<PathBuf>,
    known: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    why: String,
    /// Whether what is below is meant, too.
    is_dir: bool,
}

impl Places {
    /// None yet in the tree at `root`; without one in any tree.
    pub(super) fn of(root: Option<&Path>) -> Self {
        let names = root.into_iter().flat_map(|root| [Some(root.to_owned()), root.canonicalize().ok()]);
        Self { roots: names.flatten().collect(), known: BTreeMap::new() }
    }

    /// The tree, if there is one.
    pub(super) fn root(&self) -> Option<&Path> {
        self.roots.first().map(PathBuf::as_path)
    }

    /// The names in the tree under which what is there is reached.
    pub(super) fn ways_to(&self, place: &Path) -> Vec<PathBuf> {
        let names: Vec<PathBuf> = self.found(place).iter().flat_map(|place| ways(place)).collect();
        names.iter().flat_map(|name| self.roots.iter().filter_map(move |root| below(name, root))).collect()
    }

    /// Whether that is the tree itself.
    pub(super) fn is_top(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.roots.iter().any(|root| root == path)
    }

    /// Where that is; what is not absolute counts from the tree.
    pub(super) fn found(&self, place: &Path) -> Vec<PathBuf> {
        if place.is_absolute() {
            vec![place.to_owned()]
        } else {
            self.roots.iter().map(|root| root.join(place)).collect()
        }
    }

    /// A file, if it is in the tree or the way to it leads through the tree.
    pub(super) fn file(&mut self, place: &Path, why: &str) {
        self.add(place, why, false);
    }

    /// A directory with all that is in it.
    pub(super) fn dir(&mut self, place: &Path, why: &str) {
        self.add(place, why, true);
    }

    fn add(&mut self, place: &Path, why: &str, is_dir: bool) {
        let mut names = self.ways_to(place);
        // In any tree, one that leads above is above.
        if self.roots.is_empty() && place.is_relative() && place.components().next() != Some(Component::ParentDir) {
            names.extend(below(&plain(&Path::new("/").join(place)), Path::new("/")));
        }
        // The tree itself is no file.
        for name in names.into_iter().filter(|name| is_dir || !name.as_os_str().is_empty()) {
            let new = Place { why: why.to_owned(), is_dir };
            let known = self.known.entry(folded(name.as_os_str().as_bytes())).or_insert(new);
            known.is_dir |= is_dir;
        }
    }

    /// Why a path that is folded is one of them, is in one of them, or is what one of them is in: a link in its place would
    /// lead elsewhere.
    pub(super) fn reason(&self, path: &str) -> Option<&str> {
        let place = self.known.iter().find(|(place, Place { is_dir, .. })| match place.as_str() {
            // The top of the tree: what is right in it.
            "" => !path.contains('/'),
            place => path == place || *is_dir && is_below(path, place) || is_below(place, path),
        });
        place.map(|(_, place)| place.why.as_str())
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn below(path: &Path, root: &Path) -> Option<PathBuf> {
    path.strip_prefix(root).ok().map(Path::to_owned)
}

/// The names under which what is at an absolute path is reached: its own, and another one for each link on the way, whether
/// what that leads to is there or not.
fn ways(path: &Path) -> Vec<PathBuf> {
    let (mut names, mut links) = (vec![plain(path)], 0);
    let (mut at, mut rest) = (PathBuf::new(), path.to_owned());
    loop {
        let mut parts = rest.components();
        match parts.next() {
            None => break,
            Some(Component::CurDir) => {}
            Some(Component::ParentDir) => drop(at.pop()),
            // The root takes the place of what was before.
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

/// The path without `.` and `..`, whatever is there.
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
