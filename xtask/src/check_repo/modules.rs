//! Rules about Rust files as files.

use super::SourceFile;
use std::{collections::HashSet, path::Path};

/// Upper bound of lines in a file without a reason.
const LONGEST: usize = 500;
/// Longer files, and the reason why each is one job.
const LONG: [(&str, &str); 0] = [];

pub(super) fn rust(files: &[SourceFile]) -> impl Iterator<Item = &SourceFile> {
    files.iter().filter(|file| Path::new(&file.path).extension().is_some_and(|extension| extension == "rs"))
}

/// Every file begins with its module documentation.
pub(crate) fn documented(files: &[SourceFile]) -> Vec<String> {
    rust(files)
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{} does not begin with //!", file.path))
        .collect()
}

/// Every file is part of the build: a crate root, or declared by its parent.
pub(crate) fn declared(files: &[SourceFile]) -> Vec<String> {
    let paths: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let mut faults = Vec::new();
    for file in rust(files) {
        let path = Path::new(&file.path);
        let dir = path.parent().unwrap_or(Path::new(""));
        let (Some(stem), Some(dir_name)) = (path.file_stem(), dir.file_name()) else { continue };
        let stem = stem.to_string_lossy();
        let is_root = ["lib", "main", "build"].contains(&&*stem)
            || ["bin", "tests", "benches", "examples"].iter().any(|kind| dir_name == *kind);
        if is_root {
            continue;
        }
        // The parent is `dir.rs` beside the directory, or the directory's own root file.
        let mut parents = vec![format!("{}.rs", dir.display())];
        parents.extend(["lib.rs", "main.rs", "mod.rs"].map(|root| format!("{}/{root}", dir.display())));
        let declares = |parent: &String| {
            paths.contains(parent.as_str())
                && text(parent).lines().any(|line| line.trim_end().ends_with(&format!("mod {stem};")))
        };
        if !parents.iter().any(declares) {
            faults.push(format!("{} is declared nowhere and never compiled", file.path));
        }
    }
    faults
}

/// No file is longer than [`LONGEST`], unit tests not counted, without a reason.
pub(crate) fn lengths(files: &[SourceFile]) -> Vec<String> {
    rust(files)
        .map(|file| (file, lines(file)))
        .filter(|(file, lines)| *lines > LONGEST && !LONG.iter().any(|(path, _)| *path == file.path))
        .map(|(file, lines)| format!("{} has {lines} lines; more than {LONGEST} need a reason", file.path))
        .collect()
}

/// Every module with a directory, in a crate that users get, is in the table of `docs/architecture.md`.
pub(crate) fn rooms(files: &[SourceFile]) -> Vec<String> {
    const CRATES: [&str; 5] = ["agent", "artifacts", "cli", "daemon", "proto"];
    let Some(page) = files.iter().find(|file| file.path == "docs/architecture.md") else {
        return vec!["there is no docs/architecture.md".into()];
    };
    let table: Vec<&str> = page.text.lines().filter(|line| line.starts_with('|')).collect();
    let of_crate = |name: &str| {
        let begins = format!("| `{name}` |");
        let rows = table.iter().skip_while(move |row| !row.starts_with(&begins));
        rows.enumerate()
            .take_while(|(at, row)| *at == 0 || row.starts_with("| |"))
            .map(|(_, row)| *row)
            .collect::<String>()
    };
    let rows: Vec<(&str, String)> = CRATES.iter().map(|name| (*name, of_crate(name))).collect();
    let mut faults = Vec::new();
    for file in rust(files) {
        for (name, rows) in &rows {
            let module = file.path.strip_prefix(&format!("crates/{name}/src/")).and_then(|path| path.split_once('/'));
            let Some((module, _)) = module.filter(|(module, _)| *module != "bin") else { continue };
            let fault = format!("{module} of {name} is in no row");
            if !rows.contains(&format!("`{module}`")) && !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    }
    faults
}

/// The network helper, unit tests not counted, stays below a size that can be reviewed.
pub(crate) fn privileged(files: &[SourceFile]) -> Vec<String> {
    const TOO_MANY: usize = 1500;
    let of_helper =
        |file: &&SourceFile| file.path.starts_with("crates/root-helper/src/") && !file.path.ends_with("/tests.rs");
    let count: usize = rust(files).filter(of_helper).map(lines).sum();
    let fault = format!("crates/root-helper/src has {count} lines; {TOO_MANY} are too many");
    (count >= TOO_MANY).then_some(fault).into_iter().collect()
}

/// Lines of a file without its unit tests.
fn lines(file: &SourceFile) -> usize {
    // The first line of a module of any visibility, and not a mention of one.
    let begins = |line: &str| {
        line.strip_suffix("mod tests {").is_some_and(|before| before.is_empty() || before.starts_with("pub"))
    };
    file.text.lines().take_while(|line| !begins(line)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_grew_is_found() {
        let half = "\n".repeat(750);
        let path = |name: &str| format!("crates/root-helper/src/{name}.rs");
        let mut files = vec![file(&path("a"), &half), file(&path("a/tests"), &half), file("crates/b/src/b.rs", &half)];
        assert!(privileged(&files).is_empty());
        files.push(file(&path("b"), &half));
        assert_eq!(privileged(&files).len(), 1);
    }

    #[test]
    fn a_room_that_no_row_names_is_found() {
        let page =
            |rows: &str| file("docs/architecture.md", &format!("| crate | module | decides |\n{rows}\n\nText.\n"));
        let known = ["crates/daemon/src/vm/start.rs", "crates/daemon/src/bin/bangerd.rs", "crates/daemon/src/wire.rs"];
        let mut files = Vec::from(known.map(|path| file(path, "")));
        files.push(page("| `daemon` | `store` | a |\n| | `vm` | b |\n| `cli` | `exec` | c |"));
        assert_eq!(rooms(&files), Vec::<String>::new());
        // A row of another crate does not count.
        files.push(file("crates/daemon/src/exec/join.rs", ""));
        assert_eq!(rooms(&files), ["exec of daemon is in no row"]);
        assert_eq!(rooms(&files[..3]).len(), 1);
    }

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_forgotten_file_is_found() {
        let files = [
            file("crates/a/src/lib.rs", "//! A.\npub mod b;\n"),
            file("crates/a/src/b.rs", "//! B.\nmod c;\n"),
            file("crates/a/src/b/c.rs", "//! C.\n"),
            file("crates/a/src/b/d.rs", "no doc\n"),
            file("crates/a/tests/it/main.rs", "//! Tests.\nmod e;\n"),
            file("crates/a/tests/it/e.rs", "//! E.\n"),
        ];
        assert_eq!(declared(&files), ["crates/a/src/b/d.rs is declared nowhere and never compiled"]);
        assert_eq!(documented(&files), ["crates/a/src/b/d.rs does not begin with //!"]);
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(lengths(&[file("a.rs", &"\n".repeat(LONGEST))]).is_empty());
        assert_eq!(lengths(&[file("a.rs", &"\n".repeat(LONGEST + 1))]).len(), 1);
        for tests in ["mod tests {", "pub(super) mod tests {"] {
            let tested = format!("{}{tests}\n{}", "\n".repeat(LONGEST), "\n".repeat(LONGEST));
            assert!(lengths(&[file("a.rs", &tested)]).is_empty(), "{tests}");
        }
        let spoken_of = format!("// mod tests {{{}", "\n".repeat(LONGEST + 1));
        assert_eq!(lengths(&[file("a.rs", &spoken_of)]).len(), 1);
    }
}
