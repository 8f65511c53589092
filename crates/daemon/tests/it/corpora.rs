//! What fuzzing and people came up with in a guest's place; `fuzz/` has the targets that add to it.

use banger_daemon::hostile;
use std::{fs, path::Path};

/// A corpus by its target's name, and what reads it.
type Corpus = (&'static str, fn(&[u8]));

#[test]
fn the_corpora_are_replayed() {
    let all: [Corpus; 5] = [
        ("events", hostile::events),
        ("answers", hostile::answers),
        ("console", hostile::console),
        ("monitor", hostile::monitor),
        ("names", hostile::names),
    ];
    for (name, read) in all {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        let files: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 5, "{name}: {} files", files.len());
        for file in files {
            println!("{}", file.display());
            read(&fs::read(&file).unwrap());
        }
    }
}
