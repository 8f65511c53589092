//! Rules about text.

use super::{SourceFile, modules::rust};

/// Forbidden strings, in two halves so that this file does not contain them.
const PLACES: [(&str, &str); 9] = [
    ("/work/", "main"),
    ("/work/", "shared"),
    ("/work/", "notes"),
    ("/work/", "targets"),
    ("index.cr", "ates.io"),
    ("static.ru", "st-lang.org"),
    ("registry.np", "mjs.org"),
    ("py", "pi.org"),
    ("deb.deb", "ian.org"),
];
const LEFTOVERS: [(&str, &str); 6] = [
    ("FIX", "ME"),
    ("XX", "X:"),
    ("todo", "!("),
    ("unimplemen", "ted!("),
    ("for ", "now"),
    ("not yet ", "implemented"),
];
/// Widest comment line in columns. It is `max_width` of `rustfmt.toml`, which stable rustfmt applies to code only.
const WIDTH: usize = 120;
/// The two commands of the README's section on setting up, in order.
const SET_UP: [&str; 2] = ["make run", "make test"];

/// No file contains a path of a developer's machine or a registry's host. A lock file names the registry it locks.
pub(crate) fn places(files: &[SourceFile]) -> Vec<String> {
    find(files, &PLACES)
}

/// No file contains a mark of unfinished code.
pub(crate) fn leftovers(files: &[SourceFile]) -> Vec<String> {
    find(files, &LEFTOVERS)
}

fn find(files: &[SourceFile], words: &[(&str, &str)]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|(first, second)| format!("{first}{second}")).collect();
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path != "Cargo.lock" && !file.path.starts_with("LICENSE")) {
        for (number, line) in file.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                faults.push(format!("{}:{}: {word}", file.path, number + 1));
            }
        }
    }
    faults
}

/// No comment line of a Rust file is wider than [`WIDTH`] columns; a character counts as one. Code is rustfmt's: a
/// string that it cannot break may be wider.
pub(crate) fn widths(files: &[SourceFile]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in rust(files) {
        for (number, line) in file.text.lines().enumerate() {
            let width = line.chars().count();
            if width > WIDTH && line.trim_start().starts_with("//") {
                faults.push(format!("{}:{}: {width} columns", file.path, number + 1));
            }
        }
    }
    faults
}

/// The section "Set up" has one block of commands, and it is those two.
pub(crate) fn readme(files: &[SourceFile]) -> Vec<String> {
    let Some(readme) = files.iter().find(|file| file.path == "README.md") else {
        return vec!["there is no README.md".into()];
    };
    let section = readme.text.split("\n## ").find(|section| section.starts_with("Set up"));
    let commands: Vec<&str> = section
        .and_then(|section| section.split("```").nth(1))
        .into_iter()
        .flat_map(|block| block.lines().skip(1))
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .collect();
    if commands == SET_UP { Vec::new() } else { vec![format!("they are {commands:?} instead of {SET_UP:?}")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_place_is_named_with_its_line() {
        let text = format!("fine\nsee {}{}/x\n", PLACES[0].0, PLACES[0].1);
        let faults = places(&[file("a.md", &text), file("Cargo.lock", &text)]);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("a.md:2: "), "{faults:?}");
    }

    #[test]
    fn a_wide_comment_is_named() {
        let fits = format!("// {}", "é".repeat(WIDTH - 3));
        let text = format!("{fits}\n    {fits}\nlet x = \"{fits}\";\n");
        assert_eq!(widths(&[file("a.rs", &text), file("a.md", &text)]), ["a.rs:2: 124 columns"]);
    }

    #[test]
    fn the_readme_sets_up_with_two_commands() {
        let good = "# x\n\n## Set up\n\n```sh\nmake run   # boots\nmake test\n```\n\n## Use\n\n```sh\nx\n```\n";
        assert!(readme(&[file("README.md", good)]).is_empty());
        assert_eq!(readme(&[file("README.md", &good.replace("make test", "make test\nmake more"))]).len(), 1);
        assert_eq!(readme(&[]).len(), 1);
    }
}
