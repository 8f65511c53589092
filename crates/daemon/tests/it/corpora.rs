//! Replays the corpora of hostile input from guests and VMMs against the daemon's readers.

use banger_daemon::fuzzing;

#[test]
fn the_corpora_are_replayed() {
    banger_testkit::replay(
        env!("CARGO_MANIFEST_DIR"),
        &[
            ("events", fuzzing::events),
            ("answers", fuzzing::answers),
            ("ports", fuzzing::ports),
            ("console", fuzzing::console),
            ("monitor", fuzzing::monitor),
            ("api", fuzzing::api),
            ("names", fuzzing::names),
        ],
    );
}
