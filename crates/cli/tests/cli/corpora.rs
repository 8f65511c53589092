//! What fuzzing and people came up with in a guest's place, read by the command line.

use banger_cli::hostile;

#[test]
fn the_corpora_are_replayed() {
    banger_testkit::replay(
        env!("CARGO_MANIFEST_DIR"),
        &[
            ("exec", hostile::exec),
            ("session", hostile::session),
            ("bootstrap", hostile::bootstrap),
            ("http", hostile::http),
            ("put", hostile::put),
            ("copy", hostile::archive),
            ("patch", hostile::patch),
            ("terminal", hostile::terminal),
            ("workspace", hostile::workspace),
        ],
    );
}
