//! The words of an open command line (see `open`), and the files that they may be.
//!
//! An interpreter finds a file by its name or by less than that (`strip` for `strip.py`), in the top of the tree or in a
//! directory that it is told of, and a directory by what is first in it. All of these are words of the line then, wherever they
//! stand in it.

use super::{
    super::{patch::folded, shadow_repository::small},
    open::{Open, QUOTES, is_name, tokens},
    protected_paths::ProtectedPaths,
};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Most entries of directories that are looked at for links, for one line.
const MAX_ENTRIES: usize = 10_000;
/// Directories in which interpreters look without being told.
const UNTOLD: [&str; 2] = ["__pycache__", "node_modules"];
/// Beginnings of files that stand for the directory they are in.
const FIRST: [&str; 5] = ["__init__", "__main__", "index", "init", "package"];
/// Variables whose value is options, with or without the dash.
const OPTIONS: [&str; 2] = ["PERL5OPT", "RUBYOPT"];

/// Where a word stands in the path that it is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stands {
    /// A directory on the way.
    OnTheWay,
    /// A part of the last name, between dots.
    InTheEnd,
    /// The last name.
    AsTheEnd,
}

/// See the module's words.
#[derive(Debug)]
pub(super) struct Words {
    line: Open,
    /// Folded.
    known: BTreeMap<String, Stands>,
    /// Those that may be letters of options with a name behind them: each of their ends counts.
    glued: Vec<(String, Stands)>,
    /// Whether any of them is such.
    all_glued: bool,
}

impl Words {
    pub(super) fn new(line: Open) -> Self {
        let text = line.text.clone();
        let all_glued = OPTIONS.iter().any(|variable| text.contains(variable));
        let mut words = Self { line, known: BTreeMap::new(), glued: Vec::new(), all_glued };
        tokens(&text).for_each(|(token, _)| words.add(token, Stands::AsTheEnd));
        words
    }

    /// Takes in a path whose last name stands so.
    fn add(&mut self, path: &str, stands: Stands) {
        let path = folded(path.as_bytes());
        let mut names = path.split('/').filter(|name| !name.trim_matches('.').is_empty()).peekable();
        while let Some(name) = names.next() {
            let stands = if names.peek().is_some() { Stands::OnTheWay } else { stands };
            parts(name).for_each(|part| self.insert(part, stands));
            pieces(name).for_each(|piece| self.insert(piece, stands.min(Stands::InTheEnd)));
        }
    }

    fn insert(&mut self, word: &str, stands: Stands) {
        // An option of one letter has no name behind it.
        if self.all_glued || word.starts_with('-') && !word.starts_with("--") && word.chars().count() > 2 {
            self.glued.push((word.to_owned(), stands));
        }
        let known = self.known.entry(word.to_owned()).or_insert(stands);
        *known = stands.max(*known);
    }

    /// Whether a file of a tree, folded, may be one that the line has run.
    pub(super) fn name(&self, path: &str) -> bool {
        // As the line is.
        let path = path.replace(QUOTES, "");
        let mut dirs: Vec<&str> = path.split('/').collect();
        let Some(name) = dirs.pop() else { return false };
        let is_known = |dir: &&str| self.stands(dir).is_some();
        let begins = match dirs.first() {
            Some(dir) => self.is_anywhere() || UNTOLD.contains(dir) || is_known(dir),
            None => true,
        };
        let is_in_package = || {
            let is_module = dirs.contains(&"node_modules") && dirs.iter().any(is_known);
            is_module || dirs.iter().any(|dir| self.stands(dir) == Some(Stands::AsTheEnd))
        };
        begins
            && (is_known(&name)
                || self.stands(stem(name)) >= Some(Stands::InTheEnd)
                || FIRST.contains(&stem(name)) && self.has_first(&dirs)
                || self.line.runs_packages && is_in_package())
    }

    /// Whether what it names may begin in any directory.
    fn is_anywhere(&self) -> bool {
        self.line.goes || self.line.varies || self.line.is_here
    }

    /// Whether what is first in a directory may be run for it.
    fn has_first(&self, dirs: &[&str]) -> bool {
        let Open { goes, varies, is_here, runs_directories, .. } = self.line;
        let is_run = match dirs.iter().rfind(|dir| **dir != "__pycache__") {
            Some(dir) => self.stands(dir) >= Some(Stands::InTheEnd) || is_here && (goes || varies),
            None => is_here,
        };
        runs_directories && is_run
    }

    /// Where all of a name stands in the line, at least. What no name is made of is between words here as it is there.
    fn stands(&self, name: &str) -> Option<Stands> {
        let whole = parts(name).try_fold(Stands::AsTheEnd, |stands, part| Some(stands.min(self.word(part)?)));
        let in_pieces = pieces(name).all(|piece| self.word(piece) >= Some(Stands::InTheEnd));
        whole.max(in_pieces.then_some(Stands::InTheEnd))
    }

    fn word(&self, word: &str) -> Option<Stands> {
        let glued = self.glued.iter().filter(|(glued, _)| glued.ends_with(word)).map(|(_, stands)| *stands);
        glued.max().max(self.known.get(word).copied())
    }

    /// Takes in where links lead that it names, as if it named that, too: those in the top of the tree and in directories that
    /// it names. So it does with what a package in the top says is the file to run. `is_here`: one of its paths is that top.
    pub(super) fn follow(&mut self, protected: &ProtectedPaths, is_here: bool) {
        let Some(root) = protected.root() else { return };
        self.line.is_here |= is_here;
        if self.line.runs_packages
            && self.has_first(&[])
            && let Some(main) = main_of(root)
        {
            self.add(&main, Stands::AsTheEnd);
        }
        let (mut next, mut seen, mut left) = (vec![PathBuf::new()], HashSet::new(), MAX_ENTRIES);
        while let Some(dir) = next.pop().filter(|_| left > 0) {
            if !seen.insert(dir.clone()) {
                continue;
            }
            for entry in fs::read_dir(root.join(&dir)).into_iter().flatten().flatten().take(left) {
                left -= 1;
                let Ok(kind) = entry.file_type() else { continue };
                let (path, name) = (dir.join(entry.file_name()), folded(entry.file_name().as_bytes()));
                if kind.is_dir() && (UNTOLD.contains(&name.as_str()) || self.stands(&name).is_some()) {
                    next.push(path);
                } else if kind.is_symlink() && self.name(&folded(path.as_os_str().as_bytes())) {
                    let stands = self.stands(&name).unwrap_or(Stands::InTheEnd);
                    for way in protected.ways_to(&path) {
                        self.line.is_here |= way.as_os_str().is_empty();
                        self.add(&way.to_string_lossy(), stands);
                        next.push(way);
                    }
                }
            }
        }
    }
}

/// What of a name may be words, with dots in them,
fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c| !is_name(c) && c != '.').filter(|part| !part.is_empty())
}

/// and without.
fn pieces(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c| !is_name(c)).filter(|piece| !piece.is_empty())
}

/// A name without its ends.
fn stem(name: &str) -> &str {
    let dots = name.len() - name.trim_start_matches('.').len();
    name[dots..].find('.').map_or(name, |at| &name[..dots + at])
}

/// The file that a package says is its first.
fn main_of(root: &Path) -> Option<String> {
    let text = small(&root.join("package.json").canonicalize().ok()?).ok()??;
    let package: serde_json::Value = serde_json::from_slice(&text).ok()?;
    package.get("main")?.as_str().map(str::to_owned)
}
