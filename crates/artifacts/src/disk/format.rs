//! Filesystem on a work disk.
//!
//! Everything that decides its bytes is set here and nothing is left to the host's `mke2fs.conf`, so each size has one
//! template, the same on every host with the same e2fsprogs. The UUID is fixed and the same in every clone: a guest
//! sees one such disk, nothing mounts it by UUID, and changing it would mean rewriting every checksum.

use crate::{
    job::Cancel,
    program::{Program, ProgramError},
};
use std::path::Path;

/// Version in every template's name; to be raised whenever templates come out differently.
pub(super) const VERSION: u32 = 1;
/// UUID of the filesystem, also the seed of its directory hashes.
const UUID: &str = "2b9c5f0e-6a51-4d0c-8a3e-5d6f7c1e9b42";
/// Features that an overlay's upper layer and Docker on it need. No `resize_inode`: growing happens while the VM is
/// down, and without it an empty disk is a twentieth of the size. No `64bit`: it is for more than 16 TiB and doubles
/// the descriptors, of which there are many copies. No quota, no project ids, nothing that only recent kernels know.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,\
                        dir_nlink,extra_isize,metadata_csum";
/// Groups whose bitmaps and inode tables are stored together: the more, the fewer the extents of an empty disk.
const FLEX_GROUPS: &str = "256";
/// Bounds of the journal in MiB; within them it is a 32nd of the disk.
const JOURNAL: (u64, u64) = (4, 64);
/// Largest output of mke2fs, which is told to be quiet.
const MAX_OUTPUT: u64 = 64 << 10;

/// Creates the filesystem in the file at `path`, which has its full length and is all zeros.
pub(super) fn format(path: &Path, size: u64, cancel: &Cancel) -> Result<(), ProgramError> {
    let journal = (size >> 25).clamp(JOURNAL.0, JOURNAL.1);
    Program::new("mke2fs", "e2fsprogs")
        .env("MKE2FS_CONFIG", "/dev/null")
        // Time in the superblock: any, but always the same.
        .env("E2FSPROGS_FAKE_TIME", "1686355200")
        .args(["-F", "-q", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-G", FLEX_GROUPS])
        .args(["-L", "work", "-U", UUID, "-O", FEATURES])
        .arg(format!("-Jsize={journal}"))
        // The file is zeros already: neither inode tables nor journal are written, and because mke2fs discards first,
        // it knows that the tables are zero, and the guest's kernel does not write them either.
        .arg(format!("-Elazy_itable_init=1,lazy_journal_init=1,discard,root_owner=0:0,hash_seed={UUID}"))
        .arg(path)
        .capture(MAX_OUTPUT, cancel)
        .map(drop)
}
