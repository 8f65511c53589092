//! Programs that git runs of its own accord, and the files that their command lines name.

use std::borrow::Cow;

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

/// Programs that run the file which their first argument names.
const INTERPRETERS: [Interpreter; 7] = [
    Interpreter { names: &["sh", "ash", "bash", "dash", "ksh", "mksh", "zsh"], text: 'c', valued: "o" },
    Interpreter { names: &["python", "pypy"], text: 'c', valued: "wx" },
    Interpreter { names: &["perl"], text: 'e', valued: "im" },
    Interpreter { names: &["ruby"], text: 'e', valued: "ir" },
    Interpreter { names: &["node"], text: 'e', valued: "r" },
    Interpreter { names: &["php"], text: 'r', valued: "cd" },
    Interpreter { names: &["lua", "luajit"], text: 'e', valued: "l" },
];
/// Their long options that a word of their own follows.
const VALUED: [&str; 4] = ["rcfile", "init-file", "require", "import"];

struct Interpreter {
    /// Without a version.
    names: &'static [&'static str],
    /// The option after which it is text instead.
    text: char,
    /// Options, folded, that a word of their own follows.
    valued: &'static str,
}

/// Whether a key's value is a program that git runs without being asked for it by name, as an alias is.
pub(super) fn is_program(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    let by_name = ["alias.", "browser.", "difftool.", "guitool.", "man.", "mergetool.", "tar."];
    let is_named = by_name.iter().any(|section| key.starts_with(section));
    (PROGRAMS.contains(&last) || key.starts_with("pager.")) && !is_named
}

/// Whether a command line names a file of a tree, alone or as the end of a longer path whose beginning is not known: others
/// are among its `paths`. A word without a slash is the name of a program of `PATH`, or one of a program's own words
/// (`git-lfs clean`), unless it looks like a file's or an interpreter is told to run it.
pub(super) fn names(program: &str, path: &str) -> bool {
    // Where it goes elsewhere first, a path may begin there.
    let goes_elsewhere = goes_elsewhere(program);
    let ends = path.match_indices('/').map(|(at, _)| &path[at + 1..]).take_while(|_| goes_elsewhere);
    // A guest's paths may be far longer than any command line, and have hundreds of ends.
    let fits = |path: &&str| path.len() <= program.len();
    std::iter::once(path).chain(ends).filter(fits).any(|path| names_as_it_is(program, path))
}

fn names_as_it_is(program: &str, path: &str) -> bool {
    program.match_indices(path).any(|(at, _)| {
        let (before, after) = (&program[..at], &program[at + path.len()..]);
        let is_whole = !before.ends_with(is_word) && !after.starts_with(|c| is_word(c) || c == '/');
        is_whole
            && if before.ends_with('/') {
                is_open(before)
            } else {
                path.contains('/') || path.contains('.') && !before.is_empty() || is_run(before)
            }
    })
}

fn goes_elsewhere(program: &str) -> bool {
    program.split(BETWEEN).any(|word| matches!(word, "cd" | "pushd"))
}

/// The paths in a command line: absolute, from a home, or as they count from a tree.
pub(super) fn paths(program: &str) -> Vec<Cow<'_, str>> {
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
/// variable), it counts from where the command line went first, or it goes up, which leads into the tree where git works in its
/// own directory.
fn is_open(before: &str) -> bool {
    let start = before.rfind(BETWEEN).map_or(0, |at| at + 1);
    let word = &before[start..];
    let is_plain = word.chars().all(|c| is_word(c) || c == '/') && !word.starts_with('-') && !word.contains("..");
    let is_whole = word.starts_with('/') || word.starts_with("~/") || in_home(word).is_some();
    goes_on(&before[..start]) || !is_whole && (!is_plain || goes_elsewhere(&before[..start]))
}

/// Whether a word after this goes on with what is in quotes, or in a substitution, before it.
fn goes_on(before: &str) -> bool {
    let outside = before.trim_end_matches(['"', '\'', '`']);
    outside.len() < before.len() && outside.ends_with(|c| is_word(c) || matches!(c, ')' | '}'))
}

/// Whether the words before another one end with an interpreter and its options: to that the other is a file, and no program's
/// name.
fn is_run(before: &str) -> bool {
    let words = before.split(|c: char| c != '=' && BETWEEN.contains(&c)).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let nearest = words.iter().enumerate().rev().find_map(|(at, word)| Some((interpreter(word)?, &words[at + 1..])));
    nearest.is_some_and(|(interpreter, options)| interpreter.runs_what_follows(options))
}

fn interpreter(word: &str) -> Option<&'static Interpreter> {
    let name = word.rsplit('/').next().unwrap_or(word);
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.iter().find(|interpreter| interpreter.names.contains(&name))
}

impl Interpreter {
    fn runs_what_follows(&self, options: &[&str]) -> bool {
        let mut words = options.iter();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix(['-', '+']) else { return false };
            let is_valued = match option.strip_prefix('-') {
                Some("") => return words.next().is_none(),
                Some(long) => VALUED.contains(&long),
                // Of letters in one word the first that takes a value has what follows it in the word, or else the next word.
                None => match option.char_indices().find(|(_, c)| *c == self.text || self.valued.contains(*c)) {
                    Some((_, letter)) if letter == self.text => return false,
                    Some((at, letter)) => at + letter.len_utf8() == option.len(),
                    None => false,
                },
            };
            if is_valued {
                words.next();
            }
        }
        true
    }
}

/// What a name is made of; `%f` is none.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')
}
