//! Replays the corpora of hostile input from guests against the daemon's readers.

use banger_daemon::fuzzing;

#[test]
fn the_corpora_are_replayed() {
    banger_testkit::replay(
        env!("CARGO_MANIFEST_DIR"),
        &[("answers", fuzzing::answers), ("console", fuzzing::console), ("names", fuzzing::names)],
    );
}
