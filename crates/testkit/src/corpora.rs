//! What fuzzing and people came up with in a guest's place, read again; `fuzz/` has the targets that add to it.

use std::{fs, path::Path};

/// A corpus by its target's name, and what reads it.
pub type Corpus = (&'static str, fn(&[u8]));

/// Reads every file of the corpora below `tests/corpus` of the crate at `manifest`.
///
/// Panics when one of them has fewer than five files: it was lost, not found harmless.
#[track_caller]
pub fn replay(manifest: &str, corpora: &[Corpus]) {
    for (name, read) in corpora {
        let corpus = Path::new(manifest).join("tests/corpus").join(name);
        let files = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let files: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
        assert!(files.len() >= 5, "{name}: {} files", files.len());
        for file in files {
            // The last one named is the one that panics.
            eprintln!("{}", file.display());
            read(&fs::read(&file).expect("a file of the corpus"));
        }
    }
}
