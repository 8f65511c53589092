//! What the daemon must not forget: VMs, what each of them holds, leases, image names.
//!
//! SQLite behind one thread that owns the only connection: one writer by construction, and the async side waits for an
//! answer instead of blocking on a disk. UNIQUE constraints are the allocator: whoever inserts the row has the name.
//! The store knows shapes and constraints; what a state change means is decided in [`crate::vm`].

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

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer banger has been here.
    #[error("{} was written by a newer version (schema {found}, this one knows {known})", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: usize,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot migrate {}", path.display())]
    Migrate {
        /// The database.
        path: PathBuf,
        /// Which step, and what SQLite said.
        source: rusqlite_migration::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the store's thread")]
    Thread(#[source] io::Error),
    /// The value is taken: a UNIQUE constraint said so.
    #[error("{0} is taken")]
    Taken(&'static str),
    /// A row does not say what this version understands.
    #[error("the row of {what} makes no sense")]
    Garbled {
        /// Which.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// SQLite failed.
    #[error("the database failed")]
    Database(#[from] rusqlite::Error),
    /// The store's thread is gone: it panicked, or the daemon is ending.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether a UNIQUE constraint refused.
    fn is_unique(error: &rusqlite::Error) -> bool {
        matches!(error, rusqlite::Error::SqliteFailure(failure, _)
            if failure.code == ErrorCode::ConstraintViolation
                && matches!(failure.extended_code, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY))
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Clones are the same database.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens (or makes) the database at `path` and brings its schema up to date.
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

    /// Runs `work` on the connection.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that went away does not undo what it asked for.
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

    /// A store in a directory of its own.
    pub(crate) fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("state.db")).unwrap();
        (temp, store)
    }
}
