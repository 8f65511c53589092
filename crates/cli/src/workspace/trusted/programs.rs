//! Programs that git runs of its own accord, and the files that their command lines name.

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
const BETWEEN: [char; 15] = [' ', '\t', '\n', '\r', '"', '\'', '`', '=', ';', '|', '&', '<', '>', '(', '!'];

/// Whether a key's value is a program that git runs without being asked for it by name, as an alias is.
pub(super) fn is_program(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    let by_name = ["alias.", "browser.", "difftool.", "guitool.", "man.", "mergetool.", "tar."];
    let is_named = by_name.iter().any(|section| key.starts_with(section));
    (PROGRAMS.contains(&last) || key.starts_with("pager.")) && !is_named
}

/// Whether a command line names a file of a tree, alone or as the end of a longer path. A word without a slash is the name
/// of a program of `PATH`, or one of a program's own words (`git-lfs clean`), unless it looks like a file's.
pub(super) fn names(program: &str, path: &str) -> bool {
    program.match_indices(path).any(|(at, _)| {
        let (before, after) = (&program[..at], &program[at + path.len()..]);
        let is_whole = !before.ends_with(is_word) && !after.starts_with(|c| is_word(c) || c == '/');
        is_whole
            && if before.ends_with('/') {
                is_relative(before)
            } else {
                path.contains('/') || path.contains('.') && !before.is_empty()
            }
    })
}

/// The paths in a command line: absolute, from a home, or as they count from a tree.
pub(super) fn paths(program: &str) -> Vec<&str> {
    let mut start = 0;
    let words = program.split(BETWEEN).filter_map(|word| {
        let at = start;
        start += word.len() + 1;
        // What a substitution says is not known; as a rule it is the top of the tree.
        let literal = word.rfind([')', '}']).map_or(word, |end| &word[end + 1..]);
        let goes_on = literal.len() < word.len() || word.starts_with('/') && is_relative(&program[..=at]);
        match literal.strip_prefix('$') {
            Some(variable) => variable.split_once('/').map(|(_, path)| path),
            None if goes_on => literal.strip_prefix('/'),
            None => Some(literal).filter(|literal| literal.contains('/')),
        }
    });
    words.filter(|path| !path.is_empty()).collect()
}

/// Whether the path whose beginning `before` ends with counts from where git works, or from what a substitution says.
fn is_relative(before: &str) -> bool {
    let start = before.rfind(BETWEEN).map_or(0, |at| at + 1);
    let outside = before[..start].trim_end_matches(['"', '\'']);
    let goes_on = outside.len() < start && outside.ends_with(|c| is_word(c) || matches!(c, ')' | '}'));
    !before[start..].starts_with('/') || goes_on
}

/// What a name is made of; `%f` is none.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')
}
