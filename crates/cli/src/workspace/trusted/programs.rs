//! Programs that git runs of its own accord, and the files that their command lines name.

use super::{
    super::patch::folded,
    interpreters::{self, Module},
};
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

/// Last words of keys whose value is a program that git runs by itself, in the middle of what it is asked for.
const PROGRAMS: [&str; 24] = [
    "alternaterefscommand",
    "askpass",
    "clean",
    "command",
    "cmd",
    "defaultkeycommand",
    "difffilter",
    "driver",
    "editor",
    "external",
    "fsmonitor",
    "gitproxy",
    "helper",
    "packobjectshook",
    "pager",
    "process",
    "program",
    "receivepack",
    "smudge",
    "sshcommand",
    "textconv",
    "update",
    "uploadpack",
    "vcs",
];

/// What separates the words of a command line. A substitution (`$(…)/x`) is a part of the word that it is in.
pub(super) const BETWEEN: [char; 15] = [' ', '\t', '\n', '\r', '"', '\'', '`', '=', ';', '|', '&', '<', '>', '(', '!'];

/// Words after which a command line is elsewhere.
const GOES: [&str; 3] = ["cd", "chdir", "pushd"];
/// What words begin with that have a program work elsewhere, or look there for what it loads. Case counts.
const LOOKS: [&str; 11] =
    ["-C", "-I", "-Mlib", "-X", "--chdir", "LUA_", "NODE_PATH", "PERL5LIB", "PYTHONHOME", "PYTHONPATH", "RUBYLIB"];

/// What an interpreter finds without being told of it: by a name without its end,
const ENDS: [&str; 5] = [".js", ".json", ".node", ".rb", ".so"];
/// and in a directory that it is to run.
const FIRST: [&str; 6] = ["__main__.py", "__main__.pyc", "index.js", "index.json", "index.node", "package.json"];

/// Whether a key's value is a program that git runs without being asked for it by name, as an alias is.
pub(super) fn is_program(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    let by_name = ["alias.", "browser.", "difftool.", "guitool.", "man.", "mergetool.", "tar."];
    let is_named = by_name.iter().any(|section| key.starts_with(section));
    (PROGRAMS.contains(&last) || key.starts_with("pager.")) && !is_named
}

/// A command line that git runs.
#[derive(Debug)]
pub(super) struct Program {
    /// As it was written: case counts in options.
    typed: String,
    /// As names are compared.
    folded: String,
    /// What interpreters in it are to find by a module's name.
    modules: Vec<Module>,
    /// Whether one of them finds files by less than their names.
    resolves: bool,
    /// Whether a path in it may count from elsewhere.
    goes_elsewhere: bool,
}

impl Program {
    pub(super) fn new(line: &[u8]) -> Self {
        let typed = String::from_utf8_lossy(line).into_owned();
        Self {
            folded: folded(line),
            modules: interpreters::modules(&typed),
            resolves: interpreters::resolve(&typed),
            goes_elsewhere: goes_elsewhere(&typed),
            typed,
        }
    }

    /// Whether it names a file of a tree, alone or as the end of a longer path whose beginning is not known: others are among
    /// its `paths`. A word without a slash is the name of a program of `PATH`, or one of a program's own words
    /// (`git-lfs clean`), unless it looks like a file's or an interpreter is told to run it.
    pub(super) fn names(&self, path: &str) -> bool {
        // A guest's paths may be far longer than any command line, and have hundreds of ends.
        let is_written =
            |path| self.ends(path).take_while(|end| end.len() <= self.folded.len()).any(|end| self.names_as_it_is(end));
        is_written(path)
            || self.resolves && self.called(path).any(is_written)
            || self.modules.iter().any(|module| self.ends(path).take(module.depth()).any(|end| module.is_at(end)))
    }

    /// A path, and before it, the shortest first, what is left of it below each directory where it may begin.
    fn ends<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let goes_elsewhere = self.goes_elsewhere;
        let ends = path.rmatch_indices('/').map(|(at, _)| &path[at + 1..]).take_while(move |_| goes_elsewhere);
        ends.chain(std::iter::once(path))
    }

    /// What an interpreter may have been told instead of a path: that without its end, or the directory whose first file it is.
    fn called<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let (dir, name) = path.rsplit_once('/').map_or((None, path), |(dir, name)| (Some(dir), name));
        let stem = name.rfind('.').filter(|at| *at > 0).map(|at| &path[..path.len() - name.len() + at]);
        let is_first = name == "package.json" || name.starts_with("__main__.") || name.starts_with("index.");
        let here = is_first && (dir.is_none() || self.goes_elsewhere);
        [stem, dir.filter(|_| is_first), here.then_some(".")].into_iter().flatten()
    }

    fn names_as_it_is(&self, path: &str) -> bool {
        self.folded.match_indices(path).any(|(at, _)| {
            let (before, after) = (&self.folded[..at], &self.folded[at + path.len()..]);
            let is_whole = !before.ends_with(is_word) && !after.starts_with(|c| is_word(c) || c == '/');
            let looks_like_one = || path.contains('/') || path.contains('.') && path != "." && !before.is_empty();
            is_whole
                && if before.ends_with('/') {
                    is_open(before, self.goes_elsewhere)
                } else {
                    looks_like_one() || interpreters::runs_what_follows(self.typed(before))
                }
        })
    }

    /// The paths in it: absolute, from a home, or as they count from a tree.
    pub(super) fn paths(&self) -> Vec<Cow<'_, str>> {
        paths(&self.typed)
    }

    /// What an interpreter in it would find where one of its paths leads, besides what is there.
    pub(super) fn found_at(&self, path: &Path) -> Vec<PathBuf> {
        if !self.resolves {
            return Vec::new();
        }
        let with_end = |end: &&str| {
            let mut path = path.as_os_str().to_owned();
            path.push(end);
            PathBuf::from(path)
        };
        ENDS.iter().map(with_end).chain(FIRST.iter().map(|first| path.join(first))).collect()
    }

    /// What became a beginning of it when it was folded.
    fn typed(&self, beginning: &str) -> &str {
        let (mut length, mut letter) = (0, [0; 4]);
        let end = self.typed.char_indices().find(|(_, c)| {
            length += folded(c.encode_utf8(&mut letter).as_bytes()).len();
            length > beginning.len()
        });
        &self.typed[..end.map_or(self.typed.len(), |(at, _)| at)]
    }
}

/// Whether a command line, as it was typed, has what is in it begin elsewhere than where git runs it.
fn goes_elsewhere(typed: &str) -> bool {
    typed.split(BETWEEN).any(|word| {
        GOES.contains(&word.to_lowercase().as_str()) || LOOKS.iter().any(|beginning| word.starts_with(beginning))
    })
}

fn paths(program: &str) -> Vec<Cow<'_, str>> {
    let mut start = 0;
    let words = program.split(BETWEEN).filter_map(|word| {
        let at = start;
        start += word.len() + 1;
        if let Some(path) = in_home(word) {
            return Some(Cow::Owned(format!("~/{path}")));
        }
        // What a substitution says is not known; as a rule it is the top of the tree.
        let literal = word.rfind([')', '}']).map_or(word, |end| &word[end + 1..]);
        let goes_on = literal.len() < word.len() || word.starts_with('/') && goes_on(&program[..at]);
        let path = match literal.strip_prefix('$') {
            Some(variable) => variable.split_once('/').map(|(_, path)| path),
            None if goes_on => literal.strip_prefix('/'),
            None => Some(literal).filter(|literal| literal.contains('/')),
        };
        path.filter(|path| !path.is_empty()).map(Cow::Borrowed)
    });
    words.collect()
}

/// What of a word, folded or not, comes after the variable for the home, if that is all that it does not say itself.
fn in_home(word: &str) -> Option<&str> {
    let beginnings = ["$HOME/", "${HOME}/", "$home/", "${home}/"];
    let path = beginnings.iter().find_map(|beginning| word.strip_prefix(beginning));
    path.filter(|path| !path.contains(['$', ')', '}']))
}

/// Whether it is not known where the path leads whose beginning `before` ends with: it is no plain one (a substitution, a
/// variable), it counts from where the command line goes, or it goes up, which leads into the tree where git works in its own
/// directory.
fn is_open(before: &str, goes_elsewhere: bool) -> bool {
    let start = before.rfind(BETWEEN).map_or(0, |at| at + 1);
    let word = &before[start..];
    let is_plain = word.chars().all(|c| is_word(c) || c == '/') && !word.starts_with('-') && !word.contains("..");
    let is_whole = word.starts_with('/') || word.starts_with("~/") || in_home(word).is_some();
    goes_on(&before[..start]) || !is_whole && (!is_plain || goes_elsewhere)
}

/// Whether a word after this goes on with what is in quotes, or in a substitution, before it.
fn goes_on(before: &str) -> bool {
    let outside = before.trim_end_matches(['"', '\'', '`']);
    outside.len() < before.len() && outside.ends_with(|c| is_word(c) || matches!(c, ')' | '}'))
}

/// What a name is made of; `%f` is none.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')
}
