//! Unmanaged images: files of the user's. Decides what such a file must be, and how its id is made.
//!
//! It is read as little as possible: the superblock must be that of an ext4 that a guest can mount read-only. The rest
//! is not hashed; the id is made from `stat(2)` and the superblock, so a file that changed is another image: also one
//! whose modification time was set back, because whoever mounts a file system to write to it changes its superblock.

use super::{
    file_format,
    file_identity::{FileChanged, FileIdentity},
};
use banger_proto::name::ImageId;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
};

/// Offset of the superblock, and bytes of it that are checked.
const SUPERBLOCK: usize = 1024;
const LENGTH: usize = 0x160;
/// Largest blocks that are mounted by kernels with pages of 4 KiB, as all of x86-64 have.
const MAX_BLOCK: u64 = 4096;
/// Feature bit: the journal has to be replayed, because the file system was not unmounted.
const NEEDS_RECOVERY: u32 = 0x4;
/// Incompatible features that every guest's kernel supports: file types, recovery, block groups that carry their own
/// descriptors, extents, 64 bits, flexible groups, large attributes, checksum seeds, large directories, inline data.
const KNOWN_FEATURES: u32 = 0x2 | NEEDS_RECOVERY | 0x10 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000;
/// Those that are not supported, or only by some kernels, by their names in `mke2fs -O`.
const OTHER_FEATURES: [(u32, &str); 6] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x100, "mmp"),
    (0x1000, "dirdata"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];

/// A file that banger does not own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalFile {
    /// Absolute path, links resolved.
    pub path: PathBuf,
    /// State of the file when it was registered.
    #[serde(flatten)]
    pub identity: FileIdentity,
}

/// Why a file cannot be an image.
#[derive(Debug, thiserror::Error)]
pub enum UnfitFile {
    /// It cannot be read.
    #[error("cannot read it")]
    Unreadable(#[from] io::Error),
    /// Its state cannot be read, or it is no regular file.
    #[error(transparent)]
    File(#[from] FileChanged),
    /// It has another format.
    #[error("it is not an ext4 file system but {0}")]
    Kind(&'static str),
    /// It is shorter than its file system.
    #[error("its file system has {promised} bytes and the file only {is}")]
    Cut {
        /// Bytes of the file system.
        promised: u64,
        /// Bytes of the file.
        is: u64,
    },
    /// The file system was mounted when it was copied, or is mounted now.
    #[error("its file system was not unmounted")]
    Dirty,
    /// It has features that a guest's kernel may refuse.
    #[error("its file system has features a guest's kernel may not know: {}", named(*.0))]
    Features(u32),
    /// Its blocks are larger than a guest's pages.
    #[error("its file system has blocks of {0} bytes, and a guest's kernel mounts no more than {MAX_BLOCK}")]
    BlockSize(u64),
}

/// Names features; those without a name by their bit.
fn named(features: u32) -> String {
    let bits = (0..u32::BITS).map(|bit| 1 << bit).filter(|bit| features & bit != 0);
    let name = |bit: u32| OTHER_FEATURES.iter().find(|(known, _)| *known == bit).map(|(_, name)| (*name).to_owned());
    bits.map(|bit| name(bit).unwrap_or_else(|| format!("0x{bit:x}"))).collect::<Vec<_>>().join(", ")
}

impl UnfitFile {
    /// Error of the system that kept it from being read.
    pub fn unreadable(&self) -> Option<&io::Error> {
        match self {
            Self::Unreadable(error) | Self::File(FileChanged::Unreadable(error)) => Some(error),
            _ => None,
        }
    }
}

/// Facts from the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// Inodes in use.
    pub(super) inodes: u64,
    /// SHA-256 of the superblock, with its time of the last write.
    superblock: [u8; 32],
}

impl ExternalFile {
    /// Reads state and superblock of the file at `path`.
    pub(super) fn inspect(path: &Path) -> Result<(Self, Facts), UnfitFile> {
        let path = path.canonicalize()?;
        // Before the file is opened: opening a fifo would block.
        let identity = FileIdentity::of(&path)?;
        let file = File::open(&path)?;
        let mut start = vec![0; file_format::NEEDED];
        let got = read_up_to(&file, &mut start)?;
        let facts = check(&start[..got], identity.size)?;
        identity.check_unchanged(&path)?;
        Ok((Self { path, identity }, facts))
    }

    /// Id of the image.
    pub(super) fn id(&self, facts: &Facts) -> ImageId {
        self.digest(facts)[..16].parse().expect("16 hexadecimal digits are an image id")
    }

    /// Digest that identifies this file in this state: SHA-256 of its path, identity and superblock, hexadecimal.
    pub(super) fn digest(&self, facts: &Facts) -> String {
        let FileIdentity { inode, size, modified, modified_nanos, changed: _ } = self.identity;
        let mut hash = Sha256::new();
        hash.update(b"registered\0");
        hash.update(self.path.as_os_str().as_bytes());
        for number in [inode.to_le_bytes(), size.to_le_bytes()] {
            hash.update(number);
        }
        hash.update(modified.to_le_bytes());
        hash.update(modified_nanos.to_le_bytes());
        hash.update(facts.superblock);
        HEXLOWER.encode(&hash.finalize())
    }
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Checks that a file of `size` bytes that begins with `start` is an ext4 that can be mounted read-only.
fn check(start: &[u8], size: u64) -> Result<Facts, UnfitFile> {
    let superblock = start.get(SUPERBLOCK..SUPERBLOCK + LENGTH);
    let Some(superblock) = superblock.filter(|superblock| superblock[0x38..0x3a] == [0x53, 0xef]) else {
        return Err(UnfitFile::Kind(file_format::name(start)));
    };
    let word = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().expect("four bytes"));
    let incompatible = word(0x60);
    let unknown = incompatible & !KNOWN_FEATURES;
    if unknown != 0 {
        return Err(UnfitFile::Features(unknown));
    }
    if incompatible & NEEDS_RECOVERY != 0 {
        return Err(UnfitFile::Dirty);
    }
    let high = if incompatible & 0x80 == 0 { 0 } else { word(0x150) };
    let blocks = u64::from(high) << 32 | u64::from(word(0x4));
    let block = match word(0x18) {
        shift @ 0..=6 => 1024 << shift,
        _ => return Err(UnfitFile::Kind("damaged")),
    };
    if block > MAX_BLOCK {
        return Err(UnfitFile::BlockSize(block));
    }
    let promised = blocks.saturating_mul(block);
    if promised == 0 {
        return Err(UnfitFile::Kind("damaged"));
    }
    if promised > size {
        return Err(UnfitFile::Cut { promised, is: size });
    }
    let inodes = u64::from(word(0x0).saturating_sub(word(0x10)));
    Ok(Facts { inodes, superblock: Sha256::digest(superblock).into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Cancel, Job, Silent},
        rootfs::{Format, Limits, RootfsBuilder},
    };
    use std::fs;

    fn ext4() -> Vec<u8> {
        let (dir, cancel) = (tempfile::tempdir().unwrap(), Cancel::default());
        let builder = RootfsBuilder::new(dir.path(), Limits::default(), &cancel).unwrap();
        let path = dir.path().join("image");
        let job = Job { progress: &Silent, cancel: &cancel };
        builder.finish(&path, &Format::default(), &job).unwrap();
        fs::read(path).unwrap()
    }

    /// Offset of the time of the last write (`s_wtime`).
    const WRITTEN: usize = SUPERBLOCK + 0x30;

    fn said(bytes: &[u8]) -> String {
        check(bytes, bytes.len() as u64).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_ext4_is_taken_and_nothing_else_is() {
        let good = ext4();
        assert_eq!(said(&good), "");
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[SUPERBLOCK + at..][..value.len()].copy_from_slice(value);
            bytes
        };
        for (bytes, why) in [
            (vec![], "but empty"),
            (vec![1; 100], "but something else"),
            (vec![0; 5000], "but zeros"),
            (b"QFI\xfb and so on".to_vec(), "but a qcow2 disk"),
            ([&[0; 510][..], b"\x55\xaaEFI PART"].concat(), "but a disk with partitions"),
            (with(0x38, &[0, 0]), "but something else"),
            (with(0x18, &[9, 0, 0, 0]), "but damaged"),
            (with(0x60, &(good[1024 + 0x60] | 4).to_le_bytes()), "was not unmounted"),
            (with(0x62, &[3]), "may not know: encrypt, casefold"),
            (with(0x63, &[1]), "may not know: 0x1000000"),
            (with(0x18, &[3, 0, 0, 0]), "blocks of 8192 bytes"),
            (with(0x18, &[6, 0, 0, 0]), "blocks of 65536 bytes, and a guest's kernel mounts no more than 4096"),
            (good[..good.len() - 1].to_vec(), "and the file only"),
        ] {
            let said = said(&bytes);
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn an_id_tells_the_file_at_one_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, ext4()).unwrap();
        let digest = |path: &Path| ExternalFile::inspect(path).map(|(file, facts)| file.digest(&facts)).unwrap();
        let first = digest(&path);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(digest(&link), first);
        // As somebody does who mounts it, changes a file, and sets the modification time back.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[7; 4], WRITTEN as u64).unwrap();
        file.set_modified(modified).unwrap();
        assert_ne!(digest(&path), first);
        file.write_all_at(&ext4()[WRITTEN..][..4], WRITTEN as u64).unwrap();
        file.set_modified(modified).unwrap();
        assert_eq!(digest(&path), first);
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(digest(&path), first);
        assert!(matches!(ExternalFile::inspect(dir.path()), Err(UnfitFile::File(FileChanged::NotAFile))));
        assert!(matches!(ExternalFile::inspect(&dir.path().join("none")), Err(UnfitFile::Unreadable(_))));
    }
}
