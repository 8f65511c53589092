//! Copies between files inside the kernel; holes stay holes.

use crate::job::{Cancel, Job};
use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

/// Upper bound of the bytes one system call copies.
const STEP: u64 = 1 << 30;
/// Number of bytes between two checks for cancellation.
const PIECE: u64 = 32 << 20;
/// Size of the buffer of the fallback, for kernels and filesystems that cannot copy by themselves.
const BUFFER: usize = 256 << 10;
/// Minimum length of a run of zeros that becomes a hole.
const HOLE: usize = 32 << 10;

/// Makes `to`, which is empty, a copy of `from`: shares its blocks if the filesystem can, else copies everything but
/// the holes. The offset of `from` is undefined afterwards.
pub(crate) fn clone_sparse(from: &File, to: &File, job: &Job<'_>) -> io::Result<()> {
    match ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        // Another filesystem, one without shared blocks, or a file whose blocks cannot be shared.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    copy_data(from, to, job)
}

/// Writes `size` bytes of `from` to `to`, which is empty; zeros become holes.
pub(crate) fn write_sparse(from: &mut dyn Read, to: &File, size: u64, cancel: &Cancel) -> io::Result<()> {
    to.set_len(size)?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < size {
        cancel.check().map_err(io::Error::other)?;
        let piece = usize::try_from(size - at).map_or(BUFFER, |left| left.min(BUFFER));
        from.read_exact(&mut buffer[..piece])?;
        for (number, block) in buffer[..piece].chunks(HOLE).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                to.write_all_at(block, at + (number * HOLE) as u64)?;
            }
        }
        at += piece as u64;
    }
    Ok(())
}

fn copy_data(from: &File, to: &File, job: &Job<'_>) -> io::Result<()> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole follows.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        // A piece at a time, so that it can be cancelled and reports progress.
        job.cancel.check().map_err(io::Error::other)?;
        let end = seek(from, SeekFrom::Hole(data))?.min(len).min(data + PIECE);
        copy_range(from, data, to, data, end - data)?;
        job.progress.advance(end, Some(len));
        at = end;
    }
    Ok(())
}

/// Copies `len` bytes from `from` at `from_offset` to `to` at `to_offset`. It is an error if the source ends early.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Progress, Silent};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_that_come_are_holes() {
        let to = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 3 << 20];
        (bytes[5], bytes[2 << 20], bytes[(3 << 20) - 1]) = (1, 2, 3);
        write_sparse(&mut bytes.as_slice(), &to, bytes.len() as u64, &Cancel::default()).unwrap();
        let mut found = vec![9; bytes.len()];
        to.read_exact_at(&mut found, 0).unwrap();
        assert!(found == bytes && to.metadata().unwrap().blocks() * 512 <= 3 * HOLE as u64);
        let short = write_sparse(&mut &bytes[1..], &to, bytes.len() as u64, &Cancel::default());
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Cancels the copy that reports its progress.
    struct Stops<'a>(&'a Cancel);

    impl Progress for Stops<'_> {
        fn phase(&self, _what: &str) {}

        fn advance(&self, done: u64, total: Option<u64>) {
            assert!(Some(done) < total, "it went on to the end");
            self.0.cancel();
        }
    }

    #[test]
    fn a_copy_stops_in_the_middle_of_its_data() {
        let (from, to, cancel) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), Cancel::default());
        // One piece of data and half of another.
        let data = vec![1; 1 << 20];
        for at in (0..PIECE * 3 / 2).step_by(1 << 20) {
            from.write_all_at(&data, at).unwrap();
        }
        let stopped = copy_data(&from, &to, &Job { progress: &Stops(&cancel), cancel: &cancel });
        assert!(stopped.is_err() && cancel.is_cancelled());
        assert!(to.metadata().unwrap().blocks() * 512 <= PIECE + (1 << 20));
    }

    /// Creates a file of 64 MiB with a few bytes at the beginning, in the middle and at the very end.
    fn sparse() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        for (at, text) in [(0, "begin"), ((32 << 20) - 2, "middle"), ((64 << 20) - 3, "end")] {
            file.write_all_at(text.as_bytes(), at).unwrap();
        }
        file
    }

    fn assert_same(one: &File, other: &File) {
        let (len, mut a, mut b) = (one.metadata().unwrap().len(), vec![0; 1 << 20], vec![0; 1 << 20]);
        assert_eq!(other.metadata().unwrap().len(), len);
        for at in (0..len).step_by(1 << 20) {
            one.read_exact_at(&mut a, at).unwrap();
            other.read_exact_at(&mut b, at).unwrap();
            assert!(a == b, "they differ after {at}");
        }
    }

    #[test]
    fn a_copy_is_the_same_and_as_sparse() {
        let from = sparse();
        for copy in [clone_sparse, copy_data] {
            let to = tempfile::tempfile().unwrap();
            copy(&from, &to, &Job { progress: &Silent, cancel: &Cancel::default() }).unwrap();
            assert_same(&from, &to);
            assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "{} blocks", to.metadata().unwrap().blocks());
        }
    }

    #[test]
    fn memory_does_what_the_kernel_does() {
        let from = sparse();
        let to = tempfile::tempfile().unwrap();
        copy_through_memory(&from, 0, &to, 0, 64 << 20).unwrap();
        assert_same(&from, &to);
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(10).unwrap();
        assert_eq!(copy_range(&from, 0, &to, 0, 11).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(copy_through_memory(&from, 0, &to, 0, 11).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
