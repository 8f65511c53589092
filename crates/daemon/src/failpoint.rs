//! Points at which a test holds the daemon still, to kill something there.
//!
//! Only in builds with debug assertions; elsewhere a point is nothing. `BANGER_FAILPOINTS` names a directory: a file there
//! with a point's name arms it, once. The daemon that comes by renames the file to `<name>.hit` and waits until that is
//! gone, or until it is killed, which is what tests mostly do then. The matrix of what dies where is a test of the whole
//! product (`testkit/tests/product/faults.rs`).

/// Between two steps of an operation that a crash may separate.
#[cfg(debug_assertions)]
pub(crate) async fn hit(name: &'static str) {
    use std::{path::PathBuf, sync::OnceLock, time::Duration};
    static PLACE: OnceLock<Option<PathBuf>> = OnceLock::new();
    const TICK: Duration = Duration::from_millis(2);
    let place = PLACE.get_or_init(|| std::env::var_os("BANGER_FAILPOINTS").map(PathBuf::from));
    let Some(place) = place else { return };
    let held = place.join(format!("{name}.hit"));
    if std::fs::rename(place.join(name), &held).is_err() {
        return;
    }
    tracing::warn!(name, "held at a point for tests");
    while held.exists() {
        tokio::time::sleep(TICK).await;
    }
}

/// Between two steps of an operation that a crash may separate.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "with debug assertions it waits")]
pub(crate) async fn hit(_name: &'static str) {}
