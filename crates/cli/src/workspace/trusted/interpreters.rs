//! Which word of a command line an interpreter runs as a file.
//!
//! Its options stand before it, some with a value in a word of their own, and one after which it is given text instead. What
//! is not known of them, what is the value of one (`--rcfile` has a file run as well), and what a shell may split otherwise
//! than it looks here, counts as if the file were run.

use super::{super::patch::folded, programs::BETWEEN};
use std::ops::RangeInclusive;

/// Programs that run the file which their first argument names.
const INTERPRETERS: [Interpreter; 9] = [
    Interpreter {
        names: &["sh", "ash", "bash", "dash", "ksh", "lksh", "mksh", "oksh", "pdksh", "posh", "rbash", "yash", "zsh"],
        flags: "abefhiklmnprstuvwxBCEHPX",
        text: "c",
        valued: "oO",
        is_apart: true,
        long_flags: &["login", "noediting", "noprofile", "norc", "posix", "restricted", "verbose"],
        long_valued: &["emulate", "init-file", "rcfile"],
        ..UNKNOWN
    },
    Interpreter { names: &["csh", "tcsh", "fish"], flags: "ilnv", text: "c", long_text: &["command"], ..UNKNOWN },
    Interpreter { names: &["source", "."], ..UNKNOWN },
    Interpreter {
        names: &["python", "pypy"],
        flags: "bBdEhiIOPqRsStuvVx3",
        text: "cm",
        valued: "QWX",
        modules: "m",
        resolves: true,
        ..UNKNOWN
    },
    Interpreter {
        names: &["perl"],
        flags: "acfghnpsStTuUvwWX",
        text: "eE",
        numbered: "0l",
        rest: "CdDFimMVx",
        valued: "I",
        modules: "mM",
        module_ends: &["pm", "pmc"],
        ..UNKNOWN
    },
    Interpreter {
        names: &["ruby", "jruby"],
        flags: "acdhlnpsSUvwy",
        text: "e",
        numbered: "0",
        rest: "FiKTWx",
        valued: "CEIrX",
        modules: "r",
        module_ends: &["rb", "so"],
        resolves: true,
        long_valued: &["encoding", "external-encoding", "internal-encoding"],
        ..UNKNOWN
    },
    Interpreter {
        names: &["node", "nodejs"],
        flags: "cihv",
        text: "ep",
        valued: "rC",
        resolves: true,
        long_flags: &["enable-source-maps", "no-deprecation", "no-warnings", "preserve-symlinks"],
        long_text: &["eval", "print"],
        long_valued: &["conditions", "env-file", "experimental-loader", "import", "loader", "require"],
        ..UNKNOWN
    },
    Interpreter {
        names: &["php"],
        // After `f` comes the file, and so it does without.
        flags: "aCefFhHilmnqsvw",
        text: "r",
        valued: "BcdERStz",
        long_text: &["run"],
        ..UNKNOWN
    },
    Interpreter {
        names: &["lua", "luajit"],
        flags: "ivEW",
        rest: "O",
        // It runs a file all the same after text.
        valued: "ejl",
        modules: "l",
        ..UNKNOWN
    },
];

const UNKNOWN: Interpreter = Interpreter {
    names: &[],
    flags: "",
    text: "",
    numbered: "",
    rest: "",
    valued: "",
    is_apart: false,
    modules: "",
    module_ends: &[],
    resolves: false,
    long_flags: &[],
    long_text: &[],
    long_valued: &[],
};

/// What is known of one, in letters of options (of which case counts) and in words of long ones.
struct Interpreter {
    /// Without a version.
    names: &'static [&'static str],
    /// Options that are alone.
    flags: &'static str,
    /// Those after which it is text instead, or a module.
    text: &'static str,
    /// Those with a number, if one follows in the same word.
    numbered: &'static str,
    /// Those with whatever follows in the same word, which may be nothing.
    rest: &'static str,
    /// Those with what follows in the same word, or else the next word.
    valued: &'static str,
    /// The value of these is the next word even where more letters follow.
    is_apart: bool,
    /// Those whose value is a module, which is looked for where git runs it, too.
    modules: &'static str,
    /// How the files of modules end; none where that is not known.
    module_ends: &'static [&'static str],
    /// Whether it finds a file by less than its name as well, or by its directory's.
    resolves: bool,
    long_flags: &'static [&'static str],
    long_text: &'static [&'static str],
    /// With a word of their own.
    long_valued: &'static [&'static str],
}

/// What a word that stands before the file means.
enum Meaning {
    /// An option with so many words after it.
    Option(RangeInclusive<usize>),
    /// No option follows it.
    LastOption,
    /// No file that follows is run.
    NoFile,
}

/// Whether the words before another one end with an interpreter and its options: to that the other is a file, and no program's
/// name.
pub(super) fn runs_what_follows(before: &str) -> bool {
    interpreters(before).any(|(interpreter, rest)| {
        let quoted = shell_words(rest).is_some_and(|words| interpreter.runs_after(&words));
        quoted || interpreter.runs_after(&plain_words(rest))
    })
}

/// Whether one of the interpreters in a command line finds files by less than their names.
pub(super) fn resolve(line: &str) -> bool {
    interpreters(line).any(|(interpreter, _)| interpreter.resolves)
}

/// The modules that interpreters in a command line are told to run or to load.
pub(super) fn modules(line: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    for (interpreter, rest) in interpreters(line) {
        let words = plain_words(rest);
        let found = words.iter().enumerate().filter_map(|(at, word)| match interpreter.module(word)? {
            "" => words.get(at + 1).copied(),
            module => Some(module),
        });
        // Lua may have another name for one before the `=`, Perl what it takes from it behind that.
        modules.extend(found.flat_map(|module| module.split('=')).map(|module| Module::new(module, interpreter)));
    }
    modules
}

/// A module that an interpreter looks for.
#[derive(Debug)]
pub(super) struct Module {
    /// Folded: the packages it is in, and its own.
    names: Vec<String>,
    ends: &'static [&'static str],
}

impl Module {
    fn new(name: &str, interpreter: &Interpreter) -> Self {
        let name = folded(name.as_bytes());
        let names = name.split(['.', '/', ':']).filter(|name| !name.is_empty()).map(str::to_owned);
        Self { names: names.collect(), ends: interpreter.module_ends }
    }

    /// How many parts its paths have at most: all names, and the file that stands for a directory.
    pub(super) fn depth(&self) -> usize {
        self.names.len() + 1
    }

    /// Whether a path, folded, is its or that of what is loaded on the way to it.
    pub(super) fn is_at(&self, path: &str) -> bool {
        let (mut names, mut parts, mut is_inside) = (self.names.iter(), path.split('/').peekable(), false);
        while let Some(part) = parts.next() {
            let (stem, end) = part.split_once('.').unwrap_or((part, ""));
            let is_named = names.next().is_some_and(|name| name == stem);
            if parts.peek().is_none() {
                let is_first = is_inside && matches!(stem, "__init__" | "__main__" | "init");
                return if self.ends.is_empty() {
                    is_named || is_first
                } else {
                    // One without an end may become a link in the place of a directory.
                    is_named && (end.is_empty() || names.len() == 0 && self.ends.contains(&end))
                };
            }
            if !is_named {
                return false;
            }
            is_inside = true;
        }
        false
    }
}

/// All interpreters of a command line, and what comes after each.
fn interpreters(line: &str) -> impl Iterator<Item = (&'static Interpreter, &str)> {
    let mut start = 0;
    line.split(is_between).filter_map(move |word| {
        let end = start + word.len();
        start = end + 1;
        Some((interpreter(word)?, &line[end..]))
    })
}

/// What a word has run: one with a version or a variant (`python3-dbg`), the end of a substitution (`python3)`), a variable that
/// is called after one or says one itself (`${PYTHON:-python3}`), or the setting of one (`BASH_ENV=`).
fn interpreter(word: &str) -> Option<&'static Interpreter> {
    let word = folded(word.as_bytes());
    let whole = word.rsplit(['/', '\\']).next().unwrap_or(&word);
    let has_variable = whole.contains('$');
    let mut parts = whole.split(|c: char| has_variable && !c.is_ascii_alphanumeric());
    parts.find_map(|part| {
        let name = part.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        INTERPRETERS.iter().find(|interpreter| interpreter.names.iter().any(|known| [part, name].contains(known)))
    })
}

fn is_between(c: char) -> bool {
    c != '=' && BETWEEN.contains(&c)
}

/// The words in a part of a command line, whatever is quoted: it may be so itself.
fn plain_words(part: &str) -> Vec<&str> {
    part.split(is_between).filter(|word| !word.is_empty()).collect()
}

/// The words in a part of a command line as a shell takes them, without what goes to files, up to where it is not known what
/// the rest is. None when the command ends in the part, or a word goes on where it ends.
fn shell_words(part: &str) -> Option<Vec<String>> {
    // What ends here began before the interpreter's name.
    let mut left = part.strip_prefix(['"', '\'']).unwrap_or(part);
    let (mut words, mut word, mut is_file) = (Vec::new(), None::<String>, false);
    while let Some(c) = left.chars().next() {
        left = &left[c.len_utf8()..];
        let piece = match c {
            ' ' | '\t' => {
                words.extend(word.take().filter(|_| !std::mem::take(&mut is_file)));
                continue;
            }
            '<' | '>' => {
                let is_number = |word: &String| word.chars().all(|c| c.is_ascii_digit());
                words.extend(word.take().filter(|word| !is_file && !is_number(word)));
                is_file = true;
                left = left.trim_start_matches(['<', '>', '&', '|', ' ']);
                continue;
            }
            '&' if left.starts_with('>') => continue,
            '\n' | '\r' | ';' | '|' | '&' | ')' => return None,
            '\\' | '(' => return Some(words),
            // At the end of it begins what is asked about.
            '"' | '\'' | '`' if left.is_empty() && word.is_none() => continue,
            '"' | '\'' | '`' => {
                let (inner, after) = left.split_once(c)?;
                let is_open = inner.contains('\\') || inner.matches('(').count() != inner.matches(')').count();
                if c == '"' && is_open {
                    return Some(words);
                }
                left = after;
                inner
            }
            '$' if left.starts_with('(') => {
                let end = substituted(left)?;
                left = &left[end..];
                "$"
            }
            c => {
                word.get_or_insert_default().push(c);
                continue;
            }
        };
        word.get_or_insert_default().push_str(piece);
    }
    word.is_none().then_some(words)
}

/// Where the parentheses end that a text begins with.
fn substituted(text: &str) -> Option<usize> {
    let mut depth = 0;
    let end = text.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    end.map(|(at, _)| at + 1)
}

impl Interpreter {
    /// Whether what comes after these words is a file that it runs, or the value of an option, which may be one.
    fn runs_after(&self, words: &[impl AsRef<str>]) -> bool {
        // Where an option may have a value or none, the file is after either.
        let mut may_begin = vec![false; words.len() + 1];
        may_begin[0] = true;
        for (at, word) in words.iter().enumerate() {
            if !may_begin[at] {
                continue;
            }
            match self.meaning(word.as_ref()) {
                Meaning::LastOption if at + 1 == words.len() => return true,
                Meaning::LastOption | Meaning::NoFile => {}
                Meaning::Option(values) => {
                    for next in values.map(|values| at + 1 + values) {
                        match may_begin.get_mut(next) {
                            Some(begins) => *begins = true,
                            None => return true,
                        }
                    }
                }
            }
        }
        may_begin[words.len()]
    }

    fn meaning(&self, word: &str) -> Meaning {
        let Some(option) = word.strip_prefix(['-', '+']) else { return Meaning::NoFile };
        match option.strip_prefix('-') {
            Some("") => Meaning::LastOption,
            Some(long) => self.long(long),
            // Of some shells one dash is as good as two.
            None if self.long_flags.contains(&option) || self.long_valued.contains(&option) => self.long(option),
            None => self.letters(option),
        }
    }

    fn long(&self, option: &str) -> Meaning {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if self.long_text.contains(&name) {
            Meaning::NoFile
        } else if value.is_some() || self.long_flags.contains(&name) {
            Meaning::Option(0..=0)
        } else if self.long_valued.contains(&name) {
            Meaning::Option(1..=1)
        } else {
            Meaning::Option(0..=1)
        }
    }

    fn letters(&self, option: &str) -> Meaning {
        // How many of them have the next words for values.
        let mut apart = 0;
        for (at, letter) in option.char_indices() {
            let left = &option[at + letter.len_utf8()..];
            if self.text.contains(letter) {
                return Meaning::NoFile;
            } else if self.rest.contains(letter) {
                return Meaning::Option(0..=0);
            } else if self.numbered.contains(letter) {
                return self.letters(without_number(left));
            } else if self.valued.contains(letter) && self.is_apart {
                apart += 1;
            } else if self.valued.contains(letter) {
                let values = usize::from(left.is_empty());
                return Meaning::Option(values..=values);
            } else if !self.flags.contains(letter) {
                return Meaning::Option(0..=apart + 1);
            }
        }
        // Some take what follows in the same word all the same.
        let is_sure = apart == 1 && option.ends_with(|letter| self.valued.contains(letter));
        Meaning::Option(if is_sure { apart } else { 0 }..=apart)
    }

    /// The module that a word names, nothing if the next word does.
    fn module<'a>(&self, word: &'a str) -> Option<&'a str> {
        let option = word.strip_prefix('-')?;
        let letters = option.trim_start_matches(|letter| self.flags.contains(letter));
        letters.strip_prefix(|letter| self.modules.contains(letter))
    }
}

/// What follows a number, octal or hexadecimal.
fn without_number(text: &str) -> &str {
    match text.strip_prefix(['x', 'X']) {
        Some(digits) => digits.trim_start_matches(|c: char| c.is_ascii_hexdigit()),
        None => text.trim_start_matches(|c: char| ('0'..='7').contains(&c)),
    }
}
