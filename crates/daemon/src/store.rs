//! Store: the daemon's durable state, which is VMs, the resources that each holds, leases and image names.
//!
//! One thread owns the only SQLite connection. So there is one writer by construction, and async code waits for an
//! answer instead of blocking on a disk. UNIQUE constraints do the allocation: whoever inserts a row owns the name. The
//! store knows shapes and constraints; what a state change means is decided in [`crate::vm`].

mod addresses;
mod image_names;
mod leases;
mod resources;
mod row;
mod schema;
mod vms;

pub use addresses::AddressSlot;
pub use image_names::{Origin, Pinned};
pub use leases::Lease;
pub use resources::{Resource, ResourceKind};
pub use row::{Birth, NetworkSpec, Run, Sizes, VmRow, VmSpec};

use rusqlite::{Connection, ErrorCode, ffi};
use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};
use tokio::sync::oneshot;

/// Error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Path of the database.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A newer version of banger has upgraded the database.
    #[error("{} was written by a newer version (schema {found}, this one knows {known})", path.display())]
    Newer {
        /// Path of the database.
        path: PathBuf,
        /// Schema version of the database.
        found: i64,
        /// Schema version of this program.
        known: usize,
    },
    /// The schema cannot be upgraded.
    #[error("cannot migrate {}", path.display())]
    Migrate {
        /// Path of the database.
        path: PathBuf,
        /// The migration that failed, and SQLite's error.
        source: rusqlite_migration::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the store's thread")]
    Thread(#[source] io::Error),
    /// A UNIQUE constraint refused the value.
    #[error("{0} is taken")]
    Taken(&'static str),
    /// This version cannot interpret a row.
    #[error("the row of {what} makes no sense")]
    Garbled {
        /// Description of the row.
        what: String,
        /// Parser error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// SQLite failed.
    #[error("the database failed")]
    Database(#[from] rusqlite::Error),
    /// The store's thread has ended: it panicked, or the daemon is ending.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether a UNIQUE constraint caused the error.
    fn is_unique(error: &rusqlite::Error) -> bool {
        matches!(error, rusqlite::Error::SqliteFailure(failure, _)
            if failure.code == ErrorCode::ConstraintViolation
                && matches!(failure.extended_code, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY))
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens or creates the database at `path` and upgrades its schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = schema::open(path)?;
        let (jobs, todo) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("store".into())
            .stack_size(512 << 10)
            .spawn(move || {
                for job in todo {
                    job(&mut connection);
                }
            })
            .map_err(StoreError::Thread)?;
        Ok(Self { jobs })
    }

    /// Runs `work` on the connection and returns its result.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Work that was requested is done even if the caller goes away.
            let _ = answer.send(work(connection));
        });
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::vms::tests::vm as sample;
    use super::*;

    /// Opens a store in a temporary directory.
    pub(crate) fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("state.db")).unwrap();
        (temp, store)
    }
}
