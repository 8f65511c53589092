//! Renames that replace nothing, and exchanges of two files: in one step where the file system can, else in two.

use super::{at, metadata};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{fs, io, path::Path};

/// Renames, with faults that tests inject.
#[derive(Debug, Default)]
pub(super) struct Renames {
    /// Behaves like a file system without renameat2(2) flags.
    #[cfg(test)]
    pub(super) without_flags: bool,
    /// Number of renames before one fails, as if the process had been killed.
    #[cfg(test)]
    pub(super) remaining: std::cell::Cell<Option<usize>>,
}

impl Renames {
    /// Renames `from` to `to`; fails if something is at `to`.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = match self.flagged(from, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) if metadata(to)?.is_none() => fs::rename(from, to),
            Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST.into()),
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|error| at(to, &error))
    }

    /// Exchanges `new` and `here`. Where that takes two renames, the file of `here` is moved to `away` instead.
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
        if self.without_flags && flags == RenameFlags::EXCHANGE {
            return Err(Errno::INVAL);
        }
        if let Some(left) = self.remaining.get() {
            self.remaining.set(Some(left.checked_sub(1).ok_or(Errno::INTR)?));
        }
        if self.without_flags { Err(Errno::INVAL) } else { renameat_with(CWD, from, CWD, to, flags) }
    }
}
