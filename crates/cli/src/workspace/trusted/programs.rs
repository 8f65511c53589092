//! Programs that git runs of its own accord, and the files that their command lines name.

use super::{super::patch::folded, expanded, open::OpenLine, protected_paths::ProtectedPaths, words::Words};
use std::borrow::Cow;

/// Last parts of keys whose value is a program that git runs by itself in the middle of a command.
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

/// Separators of the words of a command line. A substitution (`$(…)/x`) is a part of the word that it is in.
const BETWEEN: [char; 15] = [' ', '\t', '\n', '\r', '"', '\'', '`', '=', ';', '|', '&', '<', '>', '(', '!'];

/// Whether a key's value is a program that git runs without being asked for it by name, as it is for an alias.
pub(super) fn is_program(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    let by_name = ["alias.", "browser.", "difftool.", "guitool.", "man.", "mergetool.", "tar."];
    let is_named = by_name.iter().any(|section| key.starts_with(section));
    (PROGRAMS.contains(&last) || key.starts_with("pager.")) && !is_named
}

/// A command line that git runs.
#[derive(Debug)]
pub(super) struct Program {
    /// As it is written in the configuration.
    typed: String,
    /// Case-folded.
    folded: String,
    /// Words of an open line, in which any may be a file's name.
    words: Option<Words>,
}

impl Program {
    pub(super) fn new(line: &[u8]) -> Self {
        let typed = String::from_utf8_lossy(line).into_owned();
        Self { folded: folded(line), words: OpenLine::new(&typed).map(Words::new), typed }
    }

    /// Whether the line names a file of a tree, alone or as the end of a longer path whose beginning is not known;
    /// other paths are among `paths`. A word without a slash is the name of a program of `PATH` or an argument
    /// (`git-lfs clean`), unless it looks like a file's name or the line is open.
    pub(super) fn names(&self, path: &str) -> bool {
        self.names_as_it_is(path) || self.words.as_ref().is_some_and(|words| words.name(path))
    }

    fn names_as_it_is(&self, path: &str) -> bool {
        self.folded.match_indices(path).any(|(at, _)| {
            let (before, after) = (&self.folded[..at], &self.folded[at + path.len()..]);
            let is_whole = !before.ends_with(is_word) && !after.starts_with(|c| is_word(c) || c == '/');
            let looks_like_one = || path.contains('/') || path.contains('.') && !before.is_empty();
            is_whole && if before.ends_with('/') { leads_anywhere(before) } else { looks_like_one() }
        })
    }

    /// Returns the paths in the line: absolute, from the home, or relative to a tree.
    pub(super) fn paths(&self) -> Vec<Cow<'_, str>> {
        paths(&self.typed)
    }

    /// Follows links that its words name, and finds out whether one of its paths is the root of the tree.
    pub(super) fn follow(&mut self, protected: &ProtectedPaths) {
        let ways = |path: &Cow<'_, str>| protected.paths_to(&expanded(path.as_bytes()));
        let names_own_dir = self.paths().iter().flat_map(ways).any(|way| way.as_os_str().is_empty());
        if let Some(words) = &mut self.words {
            words.follow(protected, names_own_dir);
        }
    }
}

fn paths(program: &str) -> Vec<Cow<'_, str>> {
    let mut start = 0;
    let words = program.split(BETWEEN).filter_map(|word| {
        let at = start;
        start += word.len() + 1;
        if let Some(path) = in_home(word) {
            return Some(Cow::Owned(format!("~/{path}")));
        }
        // The result of a substitution is not known; usually it is the root of the tree.
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

/// Returns the part of a word after the variable for the home, unless that has other substitutions.
fn in_home(word: &str) -> Option<&str> {
    let beginnings = ["$HOME/", "${HOME}/", "$home/", "${home}/"];
    let path = beginnings.iter().find_map(|beginning| word.strip_prefix(beginning));
    path.filter(|path| !path.contains(['$', ')', '}']))
}

/// Whether it is not known where the path leads whose beginning is the end of `before`: it has a substitution or a
/// variable, or `..`, which leads into the tree where git works in its own directory.
fn leads_anywhere(before: &str) -> bool {
    let start = before.rfind(BETWEEN).map_or(0, |at| at + 1);
    let word = &before[start..];
    let is_plain = word.chars().all(|c| is_word(c) || c == '/') && !word.starts_with('-') && !word.contains("..");
    let is_whole = word.starts_with('/') || word.starts_with("~/") || in_home(word).is_some();
    goes_on(&before[..start]) || !is_whole && !is_plain
}

/// Whether a word after this continues a quoted text or a substitution.
fn goes_on(before: &str) -> bool {
    let outside = before.trim_end_matches(['"', '\'', '`']);
    outside.len() < before.len() && outside.ends_with(|c| is_word(c) || matches!(c, ')' | '}'))
}

/// Characters of words. With `%`, git's placeholder `%f` is one word and not the name `f`.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')
}
