//! Detects open command lines, which may have other files run than the paths in them: those with an interpreter, those
//! that change the directory, and those that tell programs where to look or what to load. How each program reads its
//! options is not known here, and a doubt counts as yes: any word of such a line may be a file's name (see
//! [`super::words`]).

use super::super::patch::folded;

/// Programs that run a file which they are told of. A version or a variant may follow.
const INTERPRETERS: [&str; 29] = [
    "ash",
    "bash",
    "csh",
    "dash",
    "elvish",
    "expect",
    "fish",
    "jruby",
    "ksh",
    "lksh",
    "mksh",
    "mruby",
    "nu",
    "oksh",
    "pdksh",
    "perl",
    "php",
    "posh",
    "pwsh",
    "rbash",
    "ruby",
    "sh",
    "tclsh",
    "tcsh",
    "truffleruby",
    "wish",
    "xonsh",
    "yash",
    "zsh",
];
/// Interpreters that run a directory by its first file, too.
const DIRECTORY_INTERPRETERS: [&str; 8] =
    ["graalpy", "ipython", "jython", "lua", "luajit", "micropython", "pypy", "python"];
/// Interpreters for which that may be any file of the directory.
const PACKAGE_INTERPRETERS: [&str; 12] =
    ["bun", "bunx", "deno", "node", "nodejs", "npm", "npx", "pnpm", "pnpx", "ts-node", "tsx", "yarn"];
/// Programs that run any file or program.
const RUNNERS: [&str; 19] = [
    "busybox", "command", "doas", "env", "eval", "exec", "ionice", "nice", "nohup", "parallel", "setsid", "source",
    "stdbuf", "sudo", "time", "timeout", "toybox", "unbuffer", "xargs",
];
/// Commands that change the directory.
const CHANGE_DIR: [&str; 3] = ["cd", "chdir", "pushd"];
/// Shell keywords before a command.
const KEYWORDS: [&str; 10] = ["!", "do", "elif", "else", "if", "then", "until", "while", "{", "}"];
/// Spellings, without quotes, of the directory the line runs in: the root of the tree.
const OWN_DIR: [&str; 5] =
    ["$(git rev-parse --show-toplevel)", "`git rev-parse --show-toplevel`", "$(pwd)", "${PWD}", "$PWD"];

/// Quoting characters of a shell, which are no part of a word.
pub(super) const QUOTES: [char; 3] = ['"', '\'', '\\'];

/// Open command line.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about a line, whatever the others are")]
pub(super) struct OpenLine {
    /// The line without quotes and without the name of the program that it begins with.
    pub(super) text: String,
    /// Whether it changes the directory.
    pub(super) changes_dir: bool,
    /// Whether it has a variable or a substitution whose value is not known.
    pub(super) has_unknowns: bool,
    /// Whether it names its own directory, by a dot.
    pub(super) names_own_dir: bool,
    /// Whether what runs may run a directory by its first file.
    pub(super) runs_directories: bool,
    /// Whether that may be any file of the directory.
    pub(super) runs_packages: bool,
}

impl OpenLine {
    /// Parses a line; none when it is not open.
    pub(super) fn new(typed: &str) -> Option<Self> {
        let text = unquoted(typed);
        let has = |names: &[&str]| tokens(&text).any(|(token, _)| is_one_of(token, names));
        let (directories, packages) = (has(&DIRECTORY_INTERPRETERS), has(&PACKAGE_INTERPRETERS));
        let is_open = directories
            || packages
            || has(&INTERPRETERS)
            || tokens(&text).any(|(token, after)| {
                RUNNERS.contains(&name(token))
                    || changes_dir(token)
                    || is_dir_option(token)
                    || sets_search_path(token, after)
            })
            || runs_any(&text);
        // A variable may name the program.
        let has_unknowns = text.match_indices('$').any(|(at, _)| has_unknowns(&text[at + 1..]));
        let rest = without_program(&text);
        is_open.then(|| Self {
            changes_dir: tokens(&text).any(|(token, _)| changes_dir(token)),
            has_unknowns,
            names_own_dir: tokens(rest).any(|(token, after)| is_own_dir(token, after)),
            runs_directories: directories || packages || has_unknowns,
            runs_packages: packages || has_unknowns,
            text: rest.to_owned(),
        })
    }
}

/// Splits a line without quotes into tokens that may be paths, each with the text after it. git's placeholder `%f` is
/// one token, so that it is not the name `f`.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(is_token)?;
        let end = rest[start..].find(|c| !is_token(c)).map_or(rest.len(), |length| start + length);
        let token = &rest[start..end];
        rest = &rest[end..];
        Some((token, rest))
    })
}

fn is_token(c: char) -> bool {
    is_name(c) || matches!(c, '.' | '/')
}

/// Characters of names, besides dots.
pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '%')
}

fn name(token: &str) -> &str {
    token.rsplit('/').next().unwrap_or(token)
}

/// Removes quotes, so that a shell's word is one word. Both spellings of a substitution become the same, and a
/// redirection and its file one word.
fn unquoted(typed: &str) -> String {
    let mut text = typed.replace("\\\n", " ");
    text.retain(|c| !QUOTES.contains(&c));
    for here in OWN_DIR {
        text = text.replace(here, ".");
    }
    text = text.replace('`', "$(");
    for (apart, together) in [("< ", "<"), ("> ", ">")] {
        while text.contains(apart) {
            text = text.replace(apart, together);
        }
    }
    text.trim_start_matches(|c: char| c == '!' || c.is_whitespace()).to_owned()
}

/// Returns the rest of a line that begins with a program of `PATH`, which is no file of a tree.
fn without_program(text: &str) -> &str {
    let rest = text.trim_start_matches(|c| is_name(c) || c == '.');
    if rest.starts_with(['/', '=']) { text } else { rest }
}

fn is_one_of(token: &str, names: &[&str]) -> bool {
    let whole = folded(name(token).as_bytes());
    let plain = whole.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    names.iter().any(|name| [plain, whole.as_str()].contains(name))
}

fn changes_dir(token: &str) -> bool {
    CHANGE_DIR.iter().any(|name| token.eq_ignore_ascii_case(name))
}

/// Whether a token is an option that names a directory.
fn is_dir_option(token: &str) -> bool {
    token.starts_with('-') && ["C", "dir", "cwd"].iter().any(|part| token.contains(part))
}

/// Whether a token sets a variable by which programs or interpreters look for what they run.
fn sets_search_path(token: &str, after: &str) -> bool {
    let is_variable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let known = || {
        INTERPRETERS.iter().chain(&DIRECTORY_INTERPRETERS).chain(&PACKAGE_INTERPRETERS).filter(|name| name.len() > 2)
    };
    after.trim_start_matches('+').starts_with('=')
        && token.chars().all(is_variable)
        && (["PATH", "PRELOAD"].iter().any(|part| token.contains(part))
            || ["ENV", "ZDOTDIR"].contains(&token)
            || known().any(|name| token.to_ascii_lowercase().starts_with(name)))
}

/// Whether a token is the line's own directory, also behind an option's letters; not in a pattern (`.*`).
fn is_own_dir(token: &str, after: &str) -> bool {
    let path = token.trim_end_matches('/');
    let before = path.trim_end_matches('.');
    before.len() < path.len()
        && (before.is_empty() || before.ends_with('/') || before.starts_with('-'))
        && !after.starts_with(['*', '?', '+', '['])
}

/// Splits a line into commands, each as words that begin with its name or with assignments.
fn commands(text: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    let commands = text.split([';', '|', '&', '(', ')', '\n']);
    commands.map(|command| command.split_whitespace().skip_while(|word| KEYWORDS.contains(word)))
}

/// Whether a command's program is a variable, a substitution, or the shell's dot.
fn runs_any(text: &str) -> bool {
    // A `$` at the end of a word, before a parenthesis, is a substitution.
    let is_any = |word: &str| word.split('$').skip(1).any(|rest| rest.is_empty() || has_unknowns(rest));
    commands(text).any(|mut words| match words.next() {
        Some(".") => words.next().is_some(),
        // The program is a later word.
        Some(first) if first.contains(['=', '<', '>']) => words.any(is_any),
        first => first.is_some_and(is_any),
    })
}

/// Whether the text after a `$` makes it stand for something unknown. The arguments that git passes to a program are no
/// directories, and the home is not in a tree.
fn has_unknowns(after: &str) -> bool {
    if after.starts_with('(') {
        return true;
    }
    let inner = after.strip_prefix('{');
    let rest = inner.unwrap_or(after);
    let (name, end) = rest.split_at(rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()));
    let is_known =
        name == "HOME" || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() && inner.is_none();
    !is_known || inner.is_some() && !end.starts_with('}')
}
