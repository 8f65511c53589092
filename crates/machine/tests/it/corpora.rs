//! Replays the corpora of hostile input from guests and VMMs against the readers of the machine crate.

use banger_machine::fuzzing;

#[test]
fn the_corpora_are_replayed() {
    banger_testkit::replay(
        env!("CARGO_MANIFEST_DIR"),
        &[("events", fuzzing::events), ("ports", fuzzing::ports), ("qmp", fuzzing::qmp), ("api", fuzzing::api)],
    );
}
