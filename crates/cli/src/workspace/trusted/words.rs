//! Words of an open command line (see [`super::open`]), and the files that they may name.
//!
//! An interpreter finds a file by its name or by less than that (`strip` for `strip.py`), in the root of the tree or in
//! a directory that it is told of, and a directory by its first file (`index.js`). So all of these may be words
//! anywhere in the line.

use super::{
    super::{patch::folded, shadow_repository::small},
    open::{OpenLine, QUOTES, is_name, tokens},
    protected_paths::ProtectedPaths,
};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Most directory entries that are searched for links, for one line.
const MAX_ENTRIES: usize = 10_000;
/// Directories in which interpreters look without being told.
const DEFAULT_DIRS: [&str; 2] = ["__pycache__", "node_modules"];
/// Stems of files that stand for their directory.
const INDEX_FILES: [&str; 5] = ["__init__", "__main__", "index", "init", "package"];
/// Variables whose value is options, with or without the dash.
const OPTIONS: [&str; 2] = ["PERL5OPT", "RUBYOPT"];

/// Position of a word in the path that it is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    /// A directory of the path.
    Directory,
    /// A part of the last name, between dots.
    PartOfName,
    /// The whole last name.
    Name,
}

/// Words of an open command line.
#[derive(Debug)]
pub(super) struct Words {
    line: OpenLine,
    /// Case-folded words.
    known: BTreeMap<String, Position>,
    /// Words that may be option letters with a name behind them: each of their suffixes counts.
    suffixed: Vec<(String, Position)>,
    /// Whether every word may be such.
    all_suffixed: bool,
}

impl Words {
    pub(super) fn new(line: OpenLine) -> Self {
        let text = line.text.clone();
        let all_suffixed = OPTIONS.iter().any(|variable| text.contains(variable));
        let mut words = Self { line, known: BTreeMap::new(), suffixed: Vec::new(), all_suffixed };
        tokens(&text).for_each(|(token, _)| words.add(token, Position::Name));
        words
    }

    /// Adds the names of a path, the last one at `position`.
    fn add(&mut self, path: &str, position: Position) {
        let path = folded(path.as_bytes());
        let mut names = path.split('/').filter(|name| !name.trim_matches('.').is_empty()).peekable();
        while let Some(name) = names.next() {
            let position = if names.peek().is_some() { Position::Directory } else { position };
            split_dotted(name).for_each(|part| self.insert(part, position));
            split_words(name).for_each(|word| self.insert(word, position.min(Position::PartOfName)));
        }
    }

    fn insert(&mut self, word: &str, position: Position) {
        // An option of one letter has no name behind it.
        if self.all_suffixed || word.starts_with('-') && !word.starts_with("--") && word.chars().count() > 2 {
            self.suffixed.push((word.to_owned(), position));
        }
        let known = self.known.entry(word.to_owned()).or_insert(position);
        *known = position.max(*known);
    }

    /// Whether a file of a tree, by its case-folded path, may be one that the line has run.
    pub(super) fn name(&self, path: &str) -> bool {
        // The line is without quotes, too.
        let path = path.replace(QUOTES, "");
        let mut dirs: Vec<&str> = path.split('/').collect();
        let Some(name) = dirs.pop() else { return false };
        let is_known = |dir: &&str| self.position(dir).is_some();
        let begins = match dirs.first() {
            Some(dir) => self.may_begin_anywhere() || DEFAULT_DIRS.contains(dir) || is_known(dir),
            None => true,
        };
        let is_in_package = || {
            let is_module = dirs.contains(&"node_modules") && dirs.iter().any(is_known);
            is_module || dirs.iter().any(|dir| self.position(dir) == Some(Position::Name))
        };
        begins
            && (is_known(&name)
                || self.position(stem(name)) >= Some(Position::PartOfName)
                || INDEX_FILES.contains(&stem(name)) && self.runs_index_file(&dirs)
                || self.line.runs_packages && is_in_package())
    }

    /// Whether paths in the line may be relative to any directory.
    fn may_begin_anywhere(&self) -> bool {
        self.line.changes_dir || self.line.has_unknowns || self.line.names_own_dir
    }

    /// Whether the first file of a directory may be run for the directory.
    fn runs_index_file(&self, dirs: &[&str]) -> bool {
        let OpenLine { changes_dir, has_unknowns, names_own_dir, runs_directories, .. } = self.line;
        let is_run = match dirs.iter().rfind(|dir| **dir != "__pycache__") {
            Some(dir) => {
                self.position(dir) >= Some(Position::PartOfName) || names_own_dir && (changes_dir || has_unknowns)
            }
            None => names_own_dir,
        };
        runs_directories && is_run
    }

    /// Returns the lowest position of the parts of a name in the line. Characters that no name has separate words here
    /// as they do in the line.
    fn position(&self, name: &str) -> Option<Position> {
        let whole = split_dotted(name).try_fold(Position::Name, |position, part| Some(position.min(self.word(part)?)));
        let in_words = split_words(name).all(|word| self.word(word) >= Some(Position::PartOfName));
        whole.max(in_words.then_some(Position::PartOfName))
    }

    fn word(&self, word: &str) -> Option<Position> {
        let suffixed =
            self.suffixed.iter().filter(|(suffixed, _)| suffixed.ends_with(word)).map(|(_, position)| *position);
        suffixed.max().max(self.known.get(word).copied())
    }

    /// Adds the targets of links that the line names, as if it named them: links in the root of the tree and in
    /// directories that it names. Adds the main file of a package in the root as well. `names_own_dir`: one of the
    /// line's paths is the root.
    pub(super) fn follow(&mut self, protected: &ProtectedPaths, names_own_dir: bool) {
        let Some(root) = protected.root() else { return };
        self.line.names_own_dir |= names_own_dir;
        if self.line.runs_packages
            && self.runs_index_file(&[])
            && let Some(main) = main_of(root)
        {
            self.add(&main, Position::Name);
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
                if kind.is_dir() && (DEFAULT_DIRS.contains(&name.as_str()) || self.position(&name).is_some()) {
                    next.push(path);
                } else if kind.is_symlink() && self.name(&folded(path.as_os_str().as_bytes())) {
                    let position = self.position(&name).unwrap_or(Position::PartOfName);
                    for way in protected.paths_to(&path) {
                        self.line.names_own_dir |= way.as_os_str().is_empty();
                        self.add(&way.to_string_lossy(), position);
                        next.push(way);
                    }
                }
            }
        }
    }
}

/// Splits a name into words that may have dots in them.
fn split_dotted(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c| !is_name(c) && c != '.').filter(|part| !part.is_empty())
}

/// Splits a name into words without dots.
fn split_words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c| !is_name(c)).filter(|word| !word.is_empty())
}

/// Returns a name without its extensions.
fn stem(name: &str) -> &str {
    let dots = name.len() - name.trim_start_matches('.').len();
    name[dots..].find('.').map_or(name, |at| &name[..dots + at])
}

/// Returns the main file that a `package.json` names.
fn main_of(root: &Path) -> Option<String> {
    let text = small(&root.join("package.json").canonicalize().ok()?).ok()??;
    let package: serde_json::Value = serde_json::from_slice(&text).ok()?;
    package.get("main")?.as_str().map(str::to_owned)
}
