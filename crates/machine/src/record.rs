//! Small JSON files for other processes. They are written to a temporary name, renamed, and read back with a size
//! limit. A record that must survive a crash of the host is synced; a record that such a crash makes pointless is not,
//! because a start would wait for the disk.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Largest record that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// Replaces the record `dir/name`. On return it survives a power cut. The file's mode is 0600.
pub fn write(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    publish(dir, name, record, File::sync_all)?;
    File::open(dir)?.sync_all()
}

/// Replaces the record `dir/name` without syncing it, for facts about processes of this boot. After a crash of the host
/// there may be the old record, the new one, or an empty file, which [`read`] treats as no record.
pub fn write_volatile(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    publish(dir, name, record, |_| Ok(()))
}

fn publish(
    dir: &Path,
    name: &str,
    record: &impl Serialize,
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    Staged::write(dir, name, record, finish)?.publish()
}

/// A complete record that does not have its name yet: [`staged`] finds it, [`read`] does not.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Writes an unsynced record for `dir/name` to a temporary name.
    pub fn new(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<Self> {
        Self::write(dir, name, record, |_| Ok(()))
    }

    fn write(
        dir: &Path,
        name: &str,
        record: &impl Serialize,
        finish: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<Self> {
        let path = dir.join(format!("{}{}", staged_prefix(name), std::process::id()));
        let staged = Self { path, target: dir.join(name) };
        let bytes = serde_json::to_vec(record)?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged.path)?;
        file.write_all(&bytes)?;
        finish(&file)?;
        Ok(staged)
    }

    /// Renames the record to its name.
    pub fn publish(self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The file is gone if it was published, and may never have been made.
        let _ = fs::remove_file(&self.path);
    }
}

fn staged_prefix(name: &str) -> String {
    format!(".{name}.")
}

/// Reads all complete records for `dir/name` that have no name yet.
pub fn staged<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Vec<T>> {
    let prefix = staged_prefix(name);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let file = entry?.file_name();
        if file.as_encoded_bytes().starts_with(prefix.as_bytes())
            && let Some(file) = file.to_str()
            // An incomplete record is skipped.
            && let Ok(Some(record)) = read(dir, file)
        {
            found.push(record);
        }
    }
    Ok(found)
}

/// Reads the record `dir/name`; `None` if there is no such file or it is empty.
pub fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    let file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_RECORD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is larger than {MAX_RECORD} bytes")));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Removes the record `dir/name`, if it exists.
pub fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read::<Vec<u8>>(dir.path(), "a.json").unwrap(), None);
        for value in [vec![1_u8], vec![2, 3]] {
            write(dir.path(), "a.json", &value).unwrap();
            assert_eq!(read::<Vec<u8>>(dir.path(), "a.json").unwrap(), Some(value));
        }
        assert_eq!(fs::metadata(dir.path().join("a.json")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(dir.path(), "a.json").unwrap();
        remove(dir.path(), "a.json").unwrap();
    }

    #[test]
    fn what_a_crash_of_the_host_emptied_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        write_volatile(dir.path(), "a.json", &7_u8).unwrap();
        assert_eq!(read(dir.path(), "a.json").unwrap(), Some(7_u8));
        fs::write(dir.path().join("a.json"), "").unwrap();
        assert_eq!(read::<u8>(dir.path(), "a.json").unwrap(), None);
    }

    #[test]
    fn what_is_staged_is_found_apart_and_goes_when_it_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let record = Staged::new(dir.path(), "a.json", &7_u8).unwrap();
        assert_eq!(read::<u8>(dir.path(), "a.json").unwrap(), None);
        assert_eq!(staged::<u8>(dir.path(), "a.json").unwrap(), [7]);
        fs::write(dir.path().join(".a.json.1"), "{").unwrap();
        assert_eq!(staged::<u8>(dir.path(), "a.json").unwrap(), [7], "half a record is none");
        record.publish().unwrap();
        assert_eq!(read(dir.path(), "a.json").unwrap(), Some(7_u8));
        drop(Staged::new(dir.path(), "a.json", &8_u8).unwrap());
        assert_eq!(read(dir.path(), "a.json").unwrap(), Some(7_u8));
        fs::remove_file(dir.path().join(".a.json.1")).unwrap();
        assert!(staged::<u8>(dir.path(), "a.json").unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_record_that_grew_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), vec![b' '; usize::try_from(MAX_RECORD).unwrap() + 2]).unwrap();
        assert!(read::<Vec<u8>>(dir.path(), "a.json").is_err());
    }
}
