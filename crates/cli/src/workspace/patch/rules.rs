//! What a patch from a guest may touch, and what it may say there.

use super::parents;
use crate::workspace::quote::quoted;
use banger_proto::failure::{Code, Failure};

/// Drivers git has built in; any other name is a program of the host's configuration.
const KNOWN_DRIVERS: [&str; 34] = [
    "ada", "bash", "bibtex", "cpp", "csharp", "css", "dts", "elixir", "fortran", "fountain", "golang", "html", "java",
    "kotlin", "markdown", "matlab", "objc", "pascal", "perl", "php", "python", "ruby", "rust", "scheme", "tex", "text",
    "binary", "union", "default", "auto", "true", "false", "ini", "r",
];

/// Whether a patch may touch a path.
pub(super) fn check_path(path: &[u8]) -> Result<(), Failure> {
    if path.is_empty() || path.len() > 4096 || path.contains(&0) {
        return Err(refused(path, "it is no path"));
    }
    if path[0] == b'/' {
        return Err(refused(path, "it is absolute"));
    }
    // Where a backslash separates, it must not lead anywhere either.
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

/// Whether some file system takes a name for `.git<suffix>`: by letter case, by characters HFS+ ignores, by the ends NTFS
/// drops, or by its short name, which begins with `short`.
fn is_special(name: &[u8], suffix: &str, short: &str) -> bool {
    const IGNORED: [std::ops::RangeInclusive<char>; 4] =
        ['\u{200c}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{206a}'..='\u{206f}', '\u{feff}'..='\u{feff}'];
    let text: String = String::from_utf8_lossy(name)
        .chars()
        .filter(|char| !IGNORED.iter().any(|range| range.contains(char)))
        .flat_map(char::to_lowercase)
        .collect();
    let text = text.split(':').next().unwrap_or_default().trim_end_matches([' ', '.']);
    text.strip_prefix(".git") == Some(suffix) || text == short || (text.contains('~') && text.starts_with(short))
}

/// Whether a link may point there: inside the tree, and not into a git directory.
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

/// Whether a path is a file of attributes.
pub(super) fn is_attributes(path: &[u8]) -> bool {
    is_special(last(path), "attributes", "gitatt")
}

/// Attributes that make git run a program of the host's configuration are not for a guest to set.
pub(super) fn check_attributes(path: &[u8], added: &[u8]) -> Result<(), Failure> {
    if !is_attributes(path) {
        return Ok(());
    }
    for word in added.split(u8::is_ascii_whitespace) {
        let word = String::from_utf8_lossy(word);
        let Some((name, value)) = word.split_once('=') else { continue };
        let runs = match name.trim_start_matches(['-', '!']) {
            "filter" => true,
            "diff" | "merge" => !KNOWN_DRIVERS.contains(&value),
            _ => false,
        };
        if runs {
            return Err(refused(path, &format!("it sets {word:?}, which may run a program")));
        }
    }
    Ok(())
}

pub(super) fn refused(path: &[u8], why: &str) -> Failure {
    Failure::new(Code::Denied, format!("the guest's patch touches {}: {why}", quoted(path)))
        .hint("look at it in the guest; --exclude leaves a path out")
}
