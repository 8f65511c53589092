//! Small JSON files for other processes: written aside, renamed, and read back with a limit. One that must survive a crash
//! of the host is synced as well; one that such a crash makes moot is not, because a start would wait for the disk.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Largest record that is read back, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// Replaces `dir/name` by this record; on return it survives a power cut. The file's mode is 0600.
pub fn write(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    publish(dir, name, record, File::sync_all)?;
    File::open(dir)?.sync_all()
}

/// Replaces `dir/name` by this record for every process that looks, as long as this host runs: facts about processes.
/// After a crash of the host there may be the old record, the new one, or an empty file, which [`read`] takes for none.
pub fn write_volatile(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    publish(dir, name, record, |_| Ok(()))
}

fn publish(
    dir: &Path,
    name: &str,
    record: &impl Serialize,
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let staged = dir.join(format!(".{name}.{}", std::process::id()));
    let published = write_staged(&staged, record, finish).and_then(|()| fs::rename(&staged, dir.join(name)));
    if published.is_err() {
        // The file may never have been made; what is reported is why.
        let _ = fs::remove_file(&staged);
    }
    published
}

fn write_staged(path: &Path, record: &impl Serialize, finish: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let bytes = serde_json::to_vec(record)?;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&bytes)?;
    finish(&file)
}

/// The record in `dir/name`; `None` when there is no such file, or nothing in it.
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

/// Removes `dir/name`; that it was not there is fine.
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
    fn a_record_that_grew_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), vec![b' '; usize::try_from(MAX_RECORD).unwrap() + 2]).unwrap();
        assert!(read::<Vec<u8>>(dir.path(), "a.json").is_err());
    }
}
