//! The daemon's log: a bounded file and its predecessor.

use super::StartError;
use crate::config::LogLevel;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Size in bytes at which the file becomes `<name>.1` and a new one begins.
const CAP: u64 = 4 << 20;

/// Sends traces to the file at `path` from here on.
pub(super) fn start(path: &Path, level: LogLevel) -> Result<(), StartError> {
    let file = Rotating::open(path.to_owned(), CAP).map_err(StartError::io("open", path))?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level.0)
        .with_ansi(false)
        .with_target(false)
        .with_writer(Mutex::new(file))
        .finish();
    // Fails when a test has set its own subscriber, which is then wanted.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// File that never grows past its cap by more than one line.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    written: u64,
    cap: u64,
}

impl Rotating {
    fn open(path: PathBuf, cap: u64) -> io::Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file, written, cap })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, old)?;
        *self = Self::open(self.path.clone(), self.cap)?;
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written >= self.cap {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_hold_the_last_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("d.log");
        let mut log = Rotating::open(path.clone(), 100).unwrap();
        for n in 0..50 {
            writeln!(log, "line {n:02}").unwrap();
        }
        drop(log);
        let mut log = Rotating::open(path.clone(), 100).unwrap();
        writeln!(log, "again").unwrap();
        let both = fs::read_to_string(temp.path().join("d.log.1")).unwrap() + &fs::read_to_string(&path).unwrap();
        assert!(both.ends_with("line 49\nagain\n") && both.len() < 220, "{both}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
    }
}
