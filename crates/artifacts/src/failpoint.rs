//! Fail-points: places in the code where a test can halt a process, in order to kill it there.
//!
//! They exist only in builds with debug assertions. `BANGER_FAILPOINTS` names a directory; a file there with a
//! fail-point's name arms that point once. A process that reaches an armed point renames the file to `<name>.hit` and
//! waits until that file is removed or until the process is killed, which is what most tests do. Every point that is
//! passed leaves `<name>.seen`, armed or not, so that a test can check that it knows all of them. The matrix of what
//! dies where is a test of the whole product (`testkit/tests/product/faults.rs`), which reads the source as well: there
//! must be a point between any two steps.
//!
//! A step changes something that outlives the process: a database row, a named file, another process, a port, a NIC. A
//! transaction is one step, as is a file that is written under a temporary name and renamed; so is the removal of a
//! directory of files, and anything that fills a cache, because half of a cache entry does not count. There is no point
//! inside any of the following, each of which is one step:
//!
//! * the start of a process: its fork and its log, before it has reported its identity (`machine/src/shim/detach.rs`);
//! * the launch of a VMM, until its driver returns a machine: for Firecracker its sockets, its process and its
//!   configuration. The VMM dies with the shim that starts it, and anything left is in the one directory that is
//!   removed whatever it contains;
//! * one request to a helper, a shim or a guest, whatever it does there;
//! * the end of a process: it is asked first and then killed, and a stopped process is woken so that it can react.

/// Between two steps that a crash may separate.
#[cfg(debug_assertions)]
pub fn hit_and_block(name: &str) {
    let Some(held) = armed::take(name) else { return };
    while held.exists() {
        std::thread::sleep(armed::TICK);
    }
}

/// Between two steps that a crash may separate.
#[cfg(not(debug_assertions))]
pub fn hit_and_block(_name: &str) {}

/// Parts of a fail-point for callers that wait in their own way.
#[cfg(debug_assertions)]
pub mod armed {
    use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

    /// Interval at which a halted process checks its point.
    pub const TICK: Duration = Duration::from_millis(2);

    /// Returns the file that halts the caller, if the point was armed.
    pub fn take(name: &str) -> Option<PathBuf> {
        static PLACE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let place = PLACE.get_or_init(|| std::env::var_os("BANGER_FAILPOINTS").map(PathBuf::from)).as_ref()?;
        let _ = fs::write(place.join(format!("{name}.seen")), "");
        let held = place.join(format!("{name}.hit"));
        fs::rename(place.join(name), &held).ok()?;
        tracing::warn!(name, "held at a point for tests");
        Some(held)
    }
}
