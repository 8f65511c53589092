//! What fuzzing and people came up with in a guest's or a monitor's place, read by the daemon.

use banger_daemon::hostile;

#[test]
fn the_corpora_are_replayed() {
    banger_testkit::replay(
        env!("CARGO_MANIFEST_DIR"),
        &[
            ("events", hostile::events),
            ("answers", hostile::answers),
            ("ports", hostile::ports),
            ("console", hostile::console),
            ("monitor", hostile::monitor),
            ("api", hostile::api),
            ("names", hostile::names),
        ],
    );
}
