//! Points at which a test holds the daemon or a shim still, to kill something there: [`banger_artifacts::failpoint`], which
//! has some of its own, for what runs in a runtime too.

/// Between two steps of an operation that a crash may separate.
#[cfg(debug_assertions)]
pub(crate) async fn hit(name: &str) {
    use banger_artifacts::failpoint::armed;
    let Some(held) = armed::take(name) else { return };
    while held.exists() {
        tokio::time::sleep(armed::TICK).await;
    }
}

/// Between two steps of an operation that a crash may separate.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "with debug assertions it waits")]
pub(crate) async fn hit(_name: &str) {}

/// The same where there is no runtime, or nothing else may go on meanwhile.
pub(crate) use banger_artifacts::failpoint::hit_and_block;
