//! Failpoints: names of points at which a test can hold the daemon or a shim, to kill something there. See
//! [`banger_artifacts::failpoint`]; these also work inside an async runtime.

/// Marks a point between two steps that a crash may separate.
#[cfg(debug_assertions)]
pub async fn hit(name: &str) {
    use banger_artifacts::failpoint::armed;
    let Some(held) = armed::take(name) else { return };
    while held.exists() {
        tokio::time::sleep(armed::TICK).await;
    }
}

/// Marks a point between two steps that a crash may separate.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "with debug assertions it waits")]
pub async fn hit(_name: &str) {}

/// Does the same outside of a runtime, or where nothing else may go on meanwhile.
pub(crate) use banger_artifacts::failpoint::hit_and_block;
