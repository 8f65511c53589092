//! Reads the metadata of an archive entry from its headers.

use banger_link::archive::mtime;
use rustix::fs::{Gid, Mode, Uid};
use std::io::{self, Read};
use tar::Entry;

/// Returns the modification time of the entry: of its PAX record, or else of its header.
pub(super) fn mtime(entry: &mut Entry<'_, impl Read>) -> io::Result<mtime::UnixTime> {
    let seconds = entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        if record.key_bytes() == b"mtime" {
            return Ok(mtime::from_pax(record.value_bytes()).unwrap_or((seconds, 0)));
        }
    }
    Ok((seconds, 0))
}

/// Returns the permission bits of the entry.
pub(super) fn mode(entry: &Entry<'_, impl Read>) -> Mode {
    Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777)
}

/// Returns the owner and group of the entry; a number that does not fit becomes root's.
pub(super) fn owner(entry: &Entry<'_, impl Read>) -> (Option<Uid>, Option<Gid>) {
    // All ones would tell the kernel to leave the owner as it is.
    let fits = |number: u64| u32::try_from(number).ok().filter(|number| *number != u32::MAX);
    let number = |number: io::Result<u64>| number.ok().and_then(fits).unwrap_or(0);
    (Some(Uid::from_raw(number(entry.header().uid()))), Some(Gid::from_raw(number(entry.header().gid()))))
}
