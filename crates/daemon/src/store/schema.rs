//! The tables, and the migrations from older schemas.
//!
//! Migrations are appended and never edited, because users' databases went through each of them. A value that SQL must
//! constrain or look up is a column; values that are only stored together are one JSON text.

use super::StoreError;
use rusqlite::Connection;
use rusqlite_migration::{Error, M, MigrationDefinitionError, Migrations};
use std::{path::Path, time::Duration};

const FIRST: &str = "
CREATE TABLE vms (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    machine_id TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL CHECK (state IN ('created', 'starting', 'running', 'stopping', 'stopped', 'failed')),
    reason     TEXT,
    image_id   TEXT NOT NULL,
    kernel     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    spec       TEXT NOT NULL,
    run        TEXT NOT NULL
) STRICT;
CREATE INDEX vms_by_image ON vms (image_id);
CREATE INDEX vms_by_kernel ON vms (kernel);

-- What a VM holds on the host, written before it is taken and deleted after it was given back.
-- RESTRICT: a VM's row cannot go while it holds anything.
CREATE TABLE resources (
    kind  TEXT NOT NULL,
    value TEXT NOT NULL,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE RESTRICT,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX resources_by_vm ON resources (vm_id);

-- VMs that go with the process that asked for them.
CREATE TABLE leases (
    vm_id        TEXT PRIMARY KEY REFERENCES vms (id) ON DELETE CASCADE,
    host_boot_id TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    start_time   INTEGER NOT NULL
) STRICT;

CREATE TABLE image_names (
    name     TEXT PRIMARY KEY,
    image_id TEXT NOT NULL
) STRICT;
CREATE INDEX image_names_by_id ON image_names (image_id);
";

const LAST_USED: &str = "ALTER TABLE vms ADD COLUMN last_used INTEGER;";
/// The repository in a VM. The client that imports it writes it alone, never with the rest of the row.
const WORKSPACE: &str = "ALTER TABLE vms ADD COLUMN workspace TEXT;";

/// Creation time of a VM by the clock that cannot be set.
const BIRTH: &str = "ALTER TABLE vms ADD COLUMN birth TEXT;";

/// Source of the image that a name was given to, so that a chosen name is not taken over by another source.
const IMAGE_NAME_SOURCE: &str = "ALTER TABLE image_names ADD COLUMN source TEXT;";

/// Whether a user chose the name, so that an image which merely has that name at its source does not take it over.
const IMAGE_NAME_CHOSEN: &str =
    "ALTER TABLE image_names ADD COLUMN chosen INTEGER NOT NULL DEFAULT 0 CHECK (chosen IN (0, 1));";

/// Reference to exactly the image that a name was given to, because a tag may lead to another.
const IMAGE_NAME_PINNED: &str = "ALTER TABLE image_names ADD COLUMN pinned TEXT;";

/// Address of each VM: the index of its network, and of its address there.
const ADDRESSES: &str = "
CREATE TABLE networks (
    name   TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE CHECK (number BETWEEN 1 AND 63)
) STRICT;
CREATE TABLE addresses (
    vm_id   TEXT PRIMARY KEY REFERENCES vms (id) ON DELETE RESTRICT,
    network INTEGER NOT NULL CHECK (network BETWEEN 0 AND 63),
    host    INTEGER NOT NULL CHECK (host BETWEEN 2 AND 1022),
    UNIQUE (network, host)
) STRICT;
";

const STEPS: &[M<'_>] = &[
    M::up(FIRST),
    M::up(LAST_USED),
    M::up(IMAGE_NAME_SOURCE),
    M::up(ADDRESSES),
    M::up(WORKSPACE),
    M::up(IMAGE_NAME_CHOSEN),
    M::up(IMAGE_NAME_PINNED),
    M::up(BIRTH),
];
const MIGRATIONS: Migrations<'_> = Migrations::from_slice(STEPS);

/// Opens the database and migrates it.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    MIGRATIONS.to_latest(&mut connection).map_err(|source| match source {
        Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => StoreError::Newer {
            path: path.to_owned(),
            found: connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap_or(-1),
            known: STEPS.len(),
        },
        source => StoreError::Migrate { path: path.to_owned(), source },
    })?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // A second process may lock the file for a moment (a backup, a shell); the daemon's lock excludes a second daemon.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL survives a killed daemon, which is what reconciliation needs: rows reach the kernel before the resource
    // that they name is taken. What must also survive a power cut is written with `durably`.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // 256 KiB of page cache hold the whole database of a hundred VMs.
    connection.pragma_update(None, "cache_size", -256)
}

/// Runs `work` so that it and everything before it survive a power cut.
pub(super) fn durably<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    let result = work(connection);
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    result
}

#[cfg(test)]
mod upgrades;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_sound() {
        MIGRATIONS.validate().unwrap();
    }

    #[test]
    fn a_database_opens_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        drop(open(&path).unwrap());
        let connection = open(&path).unwrap();
        let keys: bool = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0)).unwrap();
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!((keys, journal.as_str()), (true, "wal"));
    }

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, known, .. } if known == STEPS.len()), "{error:?}");
        let version: i64 =
            Connection::open(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 99);
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.db");
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        assert!(matches!(open(&path).unwrap_err(), StoreError::Open { .. }));
    }
}
