//! Points at which a test holds whoever comes by still, to kill it there.
//!
//! Only in builds with debug assertions; elsewhere a point is nothing. `BANGER_FAILPOINTS` names a directory: a file there
//! with a point's name arms it, once. Who comes by renames the file to `<name>.hit` and waits until that is gone, or until
//! it is killed, which is what tests mostly do then. Every point that is passed leaves `<name>.seen`, armed or not, so that
//! a test can tell that it knows them all. The matrix of what dies where is a test of the whole product
//! (`testkit/tests/product/faults.rs`), which reads the source too: between two steps there is a point.
//!
//! A step is what changes something that outlives the process: a row, a file with a name, another process, a port, a card. A
//! transaction, or a file that is written aside and renamed, is one; so is the removal of a directory of files, and whatever
//! fills a cache, of which half is none. Nor is there a point within these, each of which is one step:
//!
//! * the beginning of a process: its fork and its log, before it has said who it is (`daemon/src/shim/detach.rs`);
//! * a monitor's launch, until its driver gives a machine: of Firecracker its sockets, its process and what it is told. It
//!   dies with the shim that starts it, and what is left is in the one directory that is removed whatever is in it;
//! * one request to a helper, a shim or a guest, whatever it does for it;
//! * the end of a process, of which it is told first and which is forced then; a process that is woken to hear of it.

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

/// For who waits in its own way.
#[cfg(debug_assertions)]
pub mod armed {
    use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

    /// How often a held point is looked at.
    pub const TICK: Duration = Duration::from_millis(2);

    /// The file that holds whoever is here, if the point was armed.
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
