//! Rules for the paths, link targets and attributes in a patch from a guest.

use super::parents;
use crate::workspace::quote::{quoted, unquote};
use banger_proto::failure::{Code, Failure};
use std::borrow::Cow;

/// Drivers that git has built in; any other name is a program of the host's configuration.
const KNOWN_DRIVERS: [&str; 34] = [
    "ada", "bash", "bibtex", "cpp", "csharp", "css", "dts", "elixir", "fortran", "fountain", "golang", "html", "java",
    "kotlin", "markdown", "matlab", "objc", "pascal", "perl", "php", "python", "ruby", "rust", "scheme", "tex", "text",
    "binary", "union", "default", "auto", "true", "false", "ini", "r",
];

/// Refuses a path that a patch may not touch.
pub(in crate::workspace) fn check_path(path: &[u8]) -> Result<(), Failure> {
    if path.is_empty() || path.len() > 4096 || path.contains(&0) {
        return Err(refused(path, "it is no path"));
    }
    if path[0] == b'/' {
        return Err(refused(path, "it is absolute"));
    }
    // A backslash counts as a separator, too, as it does on Windows.
    for part in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        if part == b".." {
            return Err(refused(path, "it leaves the tree"));
        }
        if is_special(part, "", "git~1") {
            return Err(refused(path, "it is in a git directory"));
        }
    }
    if path.split(|byte| *byte == b'/').any(|part| part.is_empty() || part == b".") {
        return Err(refused(path, "it is no path"));
    }
    if is_special(last(path), "modules", "gitmod") {
        return Err(refused(path, "it says where submodules come from"));
    }
    Ok(())
}

fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether some file system takes a name for `.git<suffix>`: by letter case, by characters that HFS+ ignores, by
/// endings that NTFS drops, or by its short name, which begins with `short`.
fn is_special(name: &[u8], suffix: &str, short: &str) -> bool {
    let text = folded(name);
    let text = text.split(':').next().unwrap_or_default().trim_end_matches([' ', '.']);
    text.strip_prefix(".git") == Some(suffix) || text == short || (text.contains('~') && text.starts_with(short))
}

/// Folds names so that those which some file system takes for the same become equal.
pub(in crate::workspace) fn folded(name: &[u8]) -> String {
    const IGNORED: [std::ops::RangeInclusive<char>; 4] =
        ['\u{200c}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{206a}'..='\u{206f}', '\u{feff}'..='\u{feff}'];
    let text = String::from_utf8_lossy(name);
    let chars = text.chars().filter(|char| !IGNORED.iter().any(|range| range.contains(char)));
    chars.flat_map(char::to_lowercase).collect()
}

/// Refuses a link target outside the tree or in a git directory.
pub(super) fn check_link(path: &[u8], target: &[u8]) -> Result<(), Failure> {
    if target.is_empty() {
        return Ok(());
    }
    let shown = || format!("it points to {}", quoted(target));
    if target[0] == b'/' || target.contains(&b'\n') || target.contains(&0) {
        return Err(refused(path, &shown()));
    }
    let mut depth = parents(path).count();
    for part in target.split(|byte| matches!(byte, b'/' | b'\\')) {
        match part {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1).ok_or_else(|| refused(path, &shown()))?,
            part if is_special(part, "", "git~1") => return Err(refused(path, &shown())),
            _ => depth += 1,
        }
    }
    Ok(())
}

/// Whether a path is an attribute file.
pub(super) fn is_attributes(path: &[u8]) -> bool {
    is_special(last(path), "attributes", "gitatt")
}

/// Line of an attribute file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::workspace) struct AttributeLine<'a> {
    /// Pattern of files, or the macro it defines.
    pattern: Cow<'a, [u8]>,
    /// Attributes that it sets.
    rest: &'a [u8],
}

/// Whether git takes a byte for a separator.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Parses a line as git does.
pub(in crate::workspace) fn attribute_line(line: &[u8]) -> Option<AttributeLine<'_>> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let line = &line[line.iter().position(|byte| !is_blank(*byte))?..];
    if line[0] == b'#' {
        return None;
    }
    if let Some((pattern, rest)) = line.strip_prefix(b"\"").and_then(unquote) {
        return Some(AttributeLine { pattern: pattern.into(), rest });
    }
    let (pattern, rest) = line.split_at(line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len()));
    Some(AttributeLine { pattern: pattern.into(), rest })
}

impl<'a> AttributeLine<'a> {
    /// Returns the name of the macro that the line defines.
    pub(in crate::workspace) fn defines(&self) -> Option<&[u8]> {
        Some(self.pattern.strip_prefix(b"[attr]")?.trim_ascii()).filter(|name| !name.is_empty())
    }

    pub(in crate::workspace) fn words(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.rest.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty())
    }
}

/// Whether an attribute makes git run a program of the host's configuration.
pub(in crate::workspace) fn runs(word: &[u8]) -> bool {
    let word = String::from_utf8_lossy(word);
    let Some((name, value)) = word.split_once('=') else { return false };
    match name.trim_start_matches(['-', '!']) {
        "filter" => true,
        "diff" | "merge" => !KNOWN_DRIVERS.contains(&value),
        _ => false,
    }
}

/// Refuses attributes that run programs, and definitions of macros, which may hide them. Returns the names that are
/// set.
pub(super) fn check_attributes(path: &[u8], added: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    if !is_attributes(path) {
        return Ok(Vec::new());
    }
    if let Some(word) = added.split(u8::is_ascii_whitespace).find(|word| runs(word)) {
        let word = String::from_utf8_lossy(word);
        return Err(refused(path, &format!("it sets {word:?}, which may run a program")));
    }
    let mut names = Vec::new();
    for line in added.split(|byte| *byte == b'\n').filter_map(attribute_line) {
        if line.pattern.starts_with(b"[attr]") {
            return Err(refused(path, "it lets one attribute stand for others"));
        }
        names.extend(line.words().filter(|word| !word.contains(&b'=')).map(<[u8]>::to_vec));
    }
    Ok(names)
}

pub(in crate::workspace) fn refused(path: &[u8], why: &str) -> Failure {
    Failure::new(Code::Denied, format!("the guest's patch touches {}: {why}", quoted(path)))
        .hint("look at it in the guest; --exclude leaves a path out")
}
