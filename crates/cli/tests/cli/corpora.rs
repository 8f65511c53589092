//! Replays the corpora of fuzzing, and inputs made by hand, against the command line.

use banger_cli::fuzzing;

#[test]
fn the_corpora_are_replayed() {
    banger_testkit::replay(
        env!("CARGO_MANIFEST_DIR"),
        &[
            ("exec", fuzzing::exec),
            ("session", fuzzing::session),
            ("bootstrap", fuzzing::bootstrap),
            ("http", fuzzing::http),
            ("put", fuzzing::put),
            ("copy", fuzzing::archive),
            ("patch", fuzzing::patch),
            ("terminal", fuzzing::terminal),
            ("workspace", fuzzing::workspace),
        ],
    );
}
