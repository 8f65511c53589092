//! Which command lines may have more run than the paths that stand in them: those with an interpreter, those that go
//! elsewhere, and those that tell programs where to look or what to load. How each of them reads its options is not known
//! here, and a doubt counts as yes: of such a line any word may be a file's (see `words`).

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
/// Those that run what is first in a directory, too.
const OF_DIRECTORIES: [&str; 8] = ["graalpy", "ipython", "jython", "lua", "luajit", "micropython", "pypy", "python"];
/// Those to which that may be any file in it.
const OF_PACKAGES: [&str; 12] =
    ["bun", "bunx", "deno", "node", "nodejs", "npm", "npx", "pnpm", "pnpx", "ts-node", "tsx", "yarn"];
/// What runs a file or another program, whatever those are.
const RUNNERS: [&str; 19] = [
    "busybox", "command", "doas", "env", "eval", "exec", "ionice", "nice", "nohup", "parallel", "setsid", "source",
    "stdbuf", "sudo", "time", "timeout", "toybox", "unbuffer", "xargs",
];
/// Words after which a command line is elsewhere.
const GOES: [&str; 3] = ["cd", "chdir", "pushd"];
/// Words before a command.
const KEYWORDS: [&str; 10] = ["!", "do", "elif", "else", "if", "then", "until", "while", "{", "}"];
/// What says where the line is, which is the top of the tree, when nothing is quoted.
const HERE: [&str; 5] =
    ["$(git rev-parse --show-toplevel)", "`git rev-parse --show-toplevel`", "$(pwd)", "${PWD}", "$PWD"];

/// What has a shell take what it would else read, and is no part of it.
pub(super) const QUOTES: [char; 3] = ['"', '\'', '\\'];

/// A line that is open.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about a line, whatever the others are")]
pub(super) struct Open {
    /// As it was typed, without quotes, and without the program's name that it begins with.
    pub(super) text: String,
    /// Whether it goes elsewhere.
    pub(super) goes: bool,
    /// Whether something in it says what is not known here: a variable, a substitution.
    pub(super) varies: bool,
    /// Whether it names the directory that it is in, by a dot.
    pub(super) is_here: bool,
    /// Whether what runs may run what is first in a directory,
    pub(super) runs_directories: bool,
    /// and whether that may be any file in it.
    pub(super) runs_packages: bool,
}

impl Open {
    /// None for a line that is not open.
    pub(super) fn new(typed: &str) -> Option<Self> {
        let text = unquoted(typed);
        let has = |names: &[&str]| tokens(&text).any(|(token, _)| is_one_of(token, names));
        let (directories, packages) = (has(&OF_DIRECTORIES), has(&OF_PACKAGES));
        let is_open = directories
            || packages
            || has(&INTERPRETERS)
            || tokens(&text).any(|(token, after)| {
                RUNNERS.contains(&name(token)) || goes(token) || looks(token) || sets(token, after)
            })
            || runs_any(&text);
        // One of the variables may say what runs.
        let varies = text.match_indices('$').any(|(at, _)| varies(&text[at + 1..]));
        let rest = without_program(&text);
        is_open.then(|| Self {
            goes: tokens(&text).any(|(token, _)| goes(token)),
            varies,
            is_here: tokens(rest).any(|(token, after)| is_here(token, after)),
            runs_directories: directories || packages || varies,
            runs_packages: packages || varies,
            text: rest.to_owned(),
        })
    }
}

/// What paths are made of in a line that is not quoted, each with what follows it. `%f` is none.
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

/// What names are made of, besides dots.
pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '%')
}

fn name(token: &str) -> &str {
    token.rsplit('/').next().unwrap_or(token)
}

/// Quotes are gone, so that what a shell takes for one word is one. A substitution looks the same in either spelling, and what
/// goes to a file is one word with the sign.
fn unquoted(typed: &str) -> String {
    let mut text = typed.replace("\\\n", " ");
    text.retain(|c| !QUOTES.contains(&c));
    for here in HERE {
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

/// The rest of a line that begins with a program of `PATH`: that is no file of a tree.
fn without_program(text: &str) -> &str {
    let rest = text.trim_start_matches(|c| is_name(c) || c == '.');
    if rest.starts_with(['/', '=']) { text } else { rest }
}

fn is_one_of(token: &str, names: &[&str]) -> bool {
    let whole = folded(name(token).as_bytes());
    let plain = whole.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    names.iter().any(|name| [plain, whole.as_str()].contains(name))
}

fn goes(token: &str) -> bool {
    GOES.iter().any(|name| token.eq_ignore_ascii_case(name))
}

/// Whether it is an option by which a program works elsewhere.
fn looks(token: &str) -> bool {
    token.starts_with('-') && ["C", "dir", "cwd"].iter().any(|part| token.contains(part))
}

/// Whether it is a variable by which programs, or an interpreter, look for what they run.
fn sets(token: &str, after: &str) -> bool {
    let is_variable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let known = || INTERPRETERS.iter().chain(&OF_DIRECTORIES).chain(&OF_PACKAGES).filter(|name| name.len() > 2);
    after.trim_start_matches('+').starts_with('=')
        && token.chars().all(is_variable)
        && (["PATH", "PRELOAD"].iter().any(|part| token.contains(part))
            || ["ENV", "ZDOTDIR"].contains(&token)
            || known().any(|name| token.to_ascii_lowercase().starts_with(name)))
}

/// Whether a token is the directory that the line is in, also behind an option's letters; not so in a pattern (`.*`).
fn is_here(token: &str, after: &str) -> bool {
    let path = token.trim_end_matches('/');
    let before = path.trim_end_matches('.');
    before.len() < path.len()
        && (before.is_empty() || before.ends_with('/') || before.starts_with('-'))
        && !after.starts_with(['*', '?', '+', '['])
}

/// The commands of a line, each in words that begin with its name or with what is set for it.
fn commands(text: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    let commands = text.split([';', '|', '&', '(', ')', '\n']);
    commands.map(|command| command.split_whitespace().skip_while(|word| KEYWORDS.contains(word)))
}

/// Whether a variable or a substitution stands where a program does, or the dot that is a shell's.
fn runs_any(text: &str) -> bool {
    // At the end of a word, before a parenthesis, a `$` is a substitution.
    let is_any = |word: &str| word.split('$').skip(1).any(|rest| rest.is_empty() || varies(rest));
    commands(text).any(|mut words| match words.next() {
        Some(".") => words.next().is_some(),
        // The program comes later.
        Some(first) if first.contains(['=', '<', '>']) => words.any(is_any),
        first => first.is_some_and(is_any),
    })
}

/// Whether what follows a `$` has it stand for what is not known. What git gives to a program is no directory, and a home is
/// none of a tree's.
fn varies(after: &str) -> bool {
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
