//! Grows the file system of a work disk that was enlarged while the VM was down, with this guest's own kernel.
//!
//! The lengths of disk and file system alone decide. The host only makes the file longer, so that it never parses what
//! a guest wrote.

use super::{Attempt, BootError, say};
use rustix::fs::{Mode, OFlags, ext4_ioc_resize_fs, open};
use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

/// Offset of the superblock, and its fields (ext4(5), "The Super Block"): low half of the number of blocks, logarithm
/// of the block size over 1 KiB, magic.
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LOW: usize = 0x04;
const LOG_BLOCK_SIZE: usize = 0x18;
const MAGIC: (usize, [u8; 2]) = (0x38, [0x53, 0xef]);

/// Grows the file system on `device`, which is mounted at `mount_point`, to the size of the device.
pub(super) fn fill_disk(device: &str, mount_point: &str) -> Result<(), BootError> {
    let what = || format!("growing the file system on {device}");
    let Some(blocks) = wanted(&mut File::open(device).attempt(what)?).attempt(what)? else { return Ok(()) };
    let root = open(mount_point, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).attempt(what)?;
    ext4_ioc_resize_fs(&root, blocks).attempt(what)?;
    say(&format!("the file system on {device} has {blocks} blocks now"));
    Ok(())
}

/// Returns the number of blocks that fit on the disk, if the file system has fewer.
fn wanted(disk: &mut File) -> io::Result<Option<u64>> {
    let mut head = [0; 64];
    disk.read_exact_at(&mut head, SUPERBLOCK)?;
    if head[MAGIC.0..][..2] != MAGIC.1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let field = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let block = 1024_u64.checked_shl(field(LOG_BLOCK_SIZE)).filter(|block| (1024..=65_536).contains(block));
    let block = block.ok_or(io::ErrorKind::InvalidData)?;
    let fits = disk.seek(SeekFrom::End(0))? / block;
    // The high half of the count needs a feature that work disks lack: they have at most 2^28 blocks.
    Ok((fits > u64::from(field(BLOCKS_LOW))).then_some(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(blocks: u32, log: u32, length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in
            [(BLOCKS_LOW, &blocks.to_le_bytes()[..]), (LOG_BLOCK_SIZE, &log.to_le_bytes()), (MAGIC.0, &MAGIC.1)]
        {
            file.write_all_at(bytes, SUPERBLOCK + at as u64).unwrap();
        }
        file
    }

    #[test]
    fn only_a_disk_with_room_grows() {
        let mib = 1 << 20;
        assert_eq!(wanted(&mut disk(16_384, 2, 64 * mib)).unwrap(), None);
        assert_eq!(wanted(&mut disk(16_384, 2, 64 * mib + 4095)).unwrap(), None);
        assert_eq!(wanted(&mut disk(16_384, 2, 128 * mib)).unwrap(), Some(32_768));
        assert_eq!(wanted(&mut disk(16_384, 2, 32 * mib)).unwrap(), None, "a disk that was cut is not for us");
    }

    #[test]
    fn what_is_no_file_system_is_left_alone() {
        for (log, magic) in [(40, true), (7, true), (2, false)] {
            let mut file = disk(1, log, 1 << 20);
            if !magic {
                file.write_all_at(&[0, 0], SUPERBLOCK + MAGIC.0 as u64).unwrap();
            }
            assert!(wanted(&mut file).is_err(), "{log} {magic}");
        }
        assert!(wanted(&mut tempfile::tempfile().unwrap()).is_err());
    }
}
