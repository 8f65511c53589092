//! Replays the corpora of the fuzz targets in `fuzz/`.

use std::{fs, path::Path};

/// Name of a fuzz target, and the function that reads its corpus.
pub type Corpus = (&'static str, fn(&[u8]));

/// Replays every file of the corpora below `tests/corpus` of the crate at `manifest`.
///
/// Panics if a corpus has fewer than five files, because then it was lost.
#[track_caller]
pub fn replay(manifest: &str, corpora: &[Corpus]) {
    for (name, read) in corpora {
        let corpus = Path::new(manifest).join("tests/corpus").join(name);
        let files = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let files: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
        assert!(files.len() >= 5, "{name}: {} files", files.len());
        for file in files {
            // The last file printed is the one that panics.
            eprintln!("{}", file.display());
            read(&fs::read(&file).expect("a file of the corpus"));
        }
    }
}
