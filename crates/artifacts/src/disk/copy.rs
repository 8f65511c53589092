//! Moving bytes between files inside the kernel.

use rustix::{fs::copy_file_range, io::Errno};
use std::{fs::File, io, os::unix::fs::FileExt};

/// Most bytes asked of one system call.
const STEP: u64 = 1 << 30;
/// Buffer of the fallback, for kernels and filesystems that cannot copy by themselves.
const BUFFER: usize = 256 << 10;

/// Copies `len` bytes from `from` at `from_offset` to `to` at `to_offset`. The source ending early is an error.
pub(crate) fn copy_range(from: &File, mut from_offset: u64, to: &File, mut to_offset: u64, len: u64) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        let step = usize::try_from(left.min(STEP)).unwrap_or(BUFFER);
        match copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), step) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => left -= copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_through_memory(from, from_offset, to, to_offset, left);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_through_memory(from: &File, mut source: u64, to: &File, mut target: u64, mut left: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while left > 0 {
        let piece = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
        from.read_exact_at(&mut buffer[..piece], source)?;
        to.write_all_at(&buffer[..piece], target)?;
        source += piece as u64;
        target += piece as u64;
        left -= piece as u64;
    }
    Ok(())
}
