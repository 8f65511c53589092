//! Rules of the repository that no compiler checks, as code that fails.
//!
//! Each rule is a function from the repository's files to the faults it finds; all rules run, and every fault is shown.

mod crates;
mod fuzz;
mod modules;
mod text;

use crate::repository;
use anyhow::{Result, ensure};
use std::fmt::Write as _;

/// One file of the repository, as the rules see it.
pub(crate) struct SourceFile {
    /// Relative to the root.
    pub(crate) path: String,
    /// Empty for a file that is not UTF-8.
    pub(crate) text: String,
}

/// Finds faults, one sentence each.
type Rule = fn(&[SourceFile]) -> Vec<String>;

const RULES: [(&str, Rule); 11] = [
    ("crates depend on each other only as the architecture says", crates::dependencies),
    ("every Rust file says what it is for", modules::documented),
    ("every Rust file is part of a crate", modules::declared),
    ("every fuzz target calls what is there, and what it found is replayed", fuzz::targets),
    ("no file is longer than one job needs", modules::lengths),
    ("what runs with a capability can be read in one go", modules::privileged),
    ("the architecture names every room", modules::rooms),
    ("nothing names the machine it was written on or a registry", text::places),
    ("nothing is left to do in the code", text::leftovers),
    ("no comment of a Rust file is wider than 120 columns", text::widths),
    ("the README has two set-up commands", text::readme),
];

/// Runs every rule.
pub(crate) fn run() -> Result<()> {
    let root = repository::root();
    let files: Vec<SourceFile> = repository::files()?
        .into_iter()
        .map(|path| SourceFile { text: std::fs::read_to_string(root.join(&path)).unwrap_or_default(), path })
        .collect();
    let mut report = String::new();
    for (title, rule) in RULES {
        let faults = rule(&files);
        if !faults.is_empty() {
            let _ = write!(report, "\n{title}; but:\n  {}", faults.join("\n  "));
        }
    }
    ensure!(report.is_empty(), "rules of the repository are broken{report}");
    Ok(())
}
