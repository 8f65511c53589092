//! What fuzzing and people came up with in a guest's place, read by the command line.

use banger_cli::hostile;

#[test]
fn the_corpora_are_replayed() {
    let all: [banger_testkit::Corpus; 5] = [
        ("exec", hostile::exec),
        ("copy", hostile::archive),
        ("patch", hostile::patch),
        ("terminal", hostile::terminal),
        ("workspace", hostile::workspace),
    ];
    banger_testkit::replay(env!("CARGO_MANIFEST_DIR"), &all);
}
