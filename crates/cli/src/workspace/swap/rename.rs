//! Renames that replace nothing, and files that take each other's place: in one step where the file system can, else in two.

use super::{at, there};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{fs, io, path::Path};

/// How files are renamed.
#[derive(Debug, Default)]
pub(super) struct Renames {
    /// As on a file system that knows no flags.
    #[cfg(test)]
    pub(super) plain: bool,
    /// So many are done before one fails, as if somebody had been killed.
    #[cfg(test)]
    pub(super) left: std::cell::Cell<Option<usize>>,
}

impl Renames {
    /// Nothing may be at `to`.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = match self.flagged(from, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) if there(to)?.is_none() => fs::rename(from, to),
            Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|error| at(to, &error))
    }

    /// What is at `here` is then at `new`, or, where it takes two steps, at `away`.
    pub(super) fn exchange(&self, new: &Path, here: &Path, away: &Path) -> io::Result<()> {
        match self.flagged(new, here, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS) => {
                self.rename(here, away)?;
                self.rename(new, here)
            }
            other => other.map_err(|error| at(here, &error.into())),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests say how it is done")]
    fn flagged(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        renameat_with(CWD, from, CWD, to, flags)
    }

    #[cfg(test)]
    fn flagged(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        if self.plain && flags == RenameFlags::EXCHANGE {
            return Err(Errno::INVAL);
        }
        if let Some(left) = self.left.get() {
            self.left.set(Some(left.checked_sub(1).ok_or(Errno::INTR)?));
        }
        if self.plain { Err(Errno::INVAL) } else { renameat_with(CWD, from, CWD, to, flags) }
    }
}
